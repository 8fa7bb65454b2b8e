import asyncio
import os
import time
from functools import partial
from types import SimpleNamespace

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.inference.spec import ChangeCounts
from server.metrics.registry import MetricsRegistry
from server.metrics.server import LoopLag, ProcessMetrics, collect_server
from workers.runtime.memory import SharedMemory, board_bytes, create_memory
from workers.runtime.spec import MemorySpec

WORKER = ("worker", "cpu:0")


def test_loop_lag():
    async def main():
        lag = LoopLag()
        lag.start()
        time.sleep(0.3)  # noqa: ASYNC251  (this is what holds it up)
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, later.set)
        await later.wait()
        return lag.lags

    lags = asyncio.run(main())
    assert lags.sum >= 0.2


def test_server_metrics_while_draining():
    inference = SimpleNamespace(
        is_ready=False,
        is_leaving=True,
        deployments=SimpleNamespace(current=SimpleNamespace(generation=4)),
        changes=ChangeCounts(succeeded=3, refused=2),
    )
    connections = {"open": 3, "idle": 2}
    collect = partial(collect_server, inference, LoopLag(), lambda: connections)
    body, _ = asyncio.run(MetricsRegistry({"server": collect}).scrape(""))
    lines = body.decode().splitlines()
    for line in (
        "ensembled_ready 0.0",
        "ensembled_draining 1.0",
        "ensembled_generation 4.0",
        'ensembled_changes_total{result="succeeded"} 3.0',
        'ensembled_changes_total{result="refused"} 2.0',
        'ensembled_changes_total{result="failed"} 0.0',
        "ensembled_connections 3.0",
        'ensembled_connections_ended_total{limit="idle"} 2.0',
        'ensembled_connections_ended_total{limit="body"} 0.0',
    ):
        assert line in lines


@pytest.fixture
def memory():
    nbytes = board_bytes(2)
    fd = create_memory(nbytes)
    shared = SharedMemory(MemorySpec(fd, nbytes, ("front-end", "worker cpu:0")))
    yield shared
    os.close(fd)


def scrape(memory):
    """Values by name, role and device."""
    body, _ = asyncio.run(MetricsRegistry({"p": ProcessMetrics(memory).collect}).scrape(""))
    prefix = "ensembled_process_"
    samples = [it for each in text_string_to_metric_families(body.decode()) for it in each.samples]
    return {
        (
            it.name.removeprefix(prefix),
            it.labels["role"],
            it.labels["device"],
        ): it.value
        for it in samples
        if "role" in it.labels
    }


def test_a_running_process(memory):
    memory.board("worker cpu:0").record_start(os.getpid())
    values = scrape(memory)
    me = psutil.Process()
    assert values["up", *WORKER] == 1
    assert values["restarts_total", *WORKER] == 0
    assert values["start_time_seconds", *WORKER] == me.create_time()
    assert 0 < values["cpu_seconds_total", *WORKER] <= sum(me.cpu_times()[:2])
    assert values["resident_memory_bytes", *WORKER] > 1 << 20
    assert 0 < values["open_fds", *WORKER] <= values["max_fds", *WORKER]
    assert values["threads", *WORKER] >= 1
    assert values["up", "supervisor", ""] == 1
    assert values["start_time_seconds", "supervisor", ""] == psutil.Process(me.ppid()).create_time()
    assert values["up", "front-end", ""] == 0


def test_a_restarted_process(memory):
    board = memory.board("worker cpu:0")
    for pid in (11, 12, 13):
        board.record_start(pid)
        board.record_exit()
    values = scrape(memory)
    assert values["up", *WORKER] == 0
    assert values["restarts_total", *WORKER] == 2
    assert ("open_fds", *WORKER) not in values


def test_a_process_that_has_just_ended_is_left_out(memory):
    memory.board("worker cpu:0").record_start(2**22 + 1)  # more than Linux gives
    values = scrape(memory)
    assert ("open_fds", *WORKER) not in values
    assert ("open_fds", "supervisor", "") in values


def test_the_board_keeps_the_number_of_starts(memory):
    board = memory.board("worker cpu:0")
    board.record_start(5)
    board.clear()
    assert (board.pid, board.starts) == (5, 1)
