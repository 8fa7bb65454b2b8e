import asyncio
import time
from types import SimpleNamespace

from server.metrics.registry import MetricsRegistry
from server.metrics.server import LoopLag, ServerMetrics


def test_an_event_loop_that_is_held_up_is_late():
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


def test_what_is_told_while_the_server_drains():
    inference = SimpleNamespace(is_ready=False, is_leaving=True)
    collector = ServerMetrics(inference, LoopLag(), lambda: {"open": 3, "idle": 2})
    body, _ = asyncio.run(MetricsRegistry({"server": collector.collect}).scrape(""))
    lines = body.decode().splitlines()
    for line in (
        "ensembled_ready 0.0",
        "ensembled_draining 1.0",
        "ensembled_connections 3.0",
        'ensembled_connections_ended_total{limit="idle"} 2.0',
        'ensembled_connections_ended_total{limit="body"} 0.0',
    ):
        assert line in lines
