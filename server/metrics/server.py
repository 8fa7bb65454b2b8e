"""Metrics of the server as a whole (build, readiness, event loop, connections) and its processes.

Runs in the front-end's event loop. The board in shared memory has the process of each role, the
kernel (through psutil, in a thread) its resource use.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import version
from typing import Any

import psutil

from server.engine.statistics import LAGS_S, Histogram
from server.inference.inference import Inference
from server.metrics.exposition import Counters, Family, Gauges, Histograms, families
from server.metrics.sampler import Sampler
from workers.runtime.memory import BoardRow, SharedMemory

__all__ = ["LoopLag", "ProcessMetrics", "collect_server"]

_TICK_S = 0.05
_LIMITS = ("connections", "idle", "header", "header_bytes", "body", "write", "unread")
_RESULTS = ("succeeded", "refused", "failed")
_LABELS = ("role", "device")
_SUPERVISOR = ("supervisor", "")
_VERSIONS = (version("ensembled"), platform.python_version())


class LoopLag:
    """Measures how late, in seconds, the event loop runs a timer, twenty times a second."""

    def __init__(self) -> None:
        self.lags = Histogram(LAGS_S)

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def _wait(self) -> None:
        self._due = time.monotonic() + _TICK_S  # uvloop's own clock has milliseconds
        self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self.lags.observe(max(0.0, time.monotonic() - self._due))
        self._wait()


#: Of the `Inference`.
_STATE_METRICS = (
    Gauges.define(
        "ensembled_generation",
        "Number of the deployment that is served; it grows with every change.",
        lambda inference: inference.deployments.current.generation,
    ),
    Gauges.define(
        "ensembled_ready", "Whether the server takes traffic.", lambda inference: inference.is_ready
    ),
    Gauges.define(
        "ensembled_draining",
        "Whether the server is stopping, and still answers accepted requests.",
        lambda inference: inference.is_leaving,
    ),
)


async def collect_server(
    inference: Inference, lag: LoopLag, connections: Callable[[], Mapping[str, int]]
) -> AsyncIterator[Family[Any]]:
    """Yield the metrics of the server: build, state, event loop, HTTP connections."""
    yield Gauges(
        "ensembled_build_info",
        "Versions of the server and of Python.",
        ("version", "python"),
        [(_VERSIONS, 1.0)],
    )
    for family in families(_STATE_METRICS, (), [((), inference)]):
        yield family
    changes = inference.changes
    yield Counters(
        "ensembled_changes_total",
        "Changes of what is served that were asked for, by result.",
        ("result",),
        (((result,), getattr(changes, result)) for result in _RESULTS),
    )
    yield Histograms(
        "ensembled_event_loop_lag_seconds",
        "How late the front-end's event loop ran a timer.",
        (),
        [((), lag.lags)],
    )
    counts = {**dict.fromkeys(_LIMITS, 0), **connections()}
    yield Gauges("ensembled_connections", "Open HTTP connections.", (), [((), counts.pop("open"))])
    yield Counters(
        "ensembled_connections_ended_total",
        "HTTP connections that were ended or refused by a limit.",
        ("limit",),
        (((limit,), number) for limit, number in counts.items()),
    )


#: Of a `psutil.Process`.
_USAGE_METRICS = (
    Gauges.define(
        "ensembled_process_start_time_seconds",
        "Start of the process, as Unix time.",
        psutil.Process.create_time,
    ),
    Counters.define(
        "ensembled_process_cpu_seconds_total",
        "CPU time of the process.",
        lambda process: sum(process.cpu_times()[:2]),
    ),
    Gauges.define(
        "ensembled_process_resident_memory_bytes",
        "Resident memory of the process, shared memory included.",
        lambda process: process.memory_info().rss,
    ),
    Gauges.define(
        "ensembled_process_open_fds",
        "Open file descriptors of the process.",
        psutil.Process.num_fds,
    ),
    Gauges.define(
        "ensembled_process_max_fds",
        "Maximum number of open file descriptors of the process.",
        lambda process: process.rlimit(psutil.RLIMIT_NOFILE)[0],
    ),
    Gauges.define(
        "ensembled_process_threads", "Threads of the process.", psutil.Process.num_threads
    ),
)


class ProcessMetrics:
    """Collects the metrics of the processes on the board of the shared memory."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._known: dict[int, psutil.Process] = {}
        self._sampler = Sampler(self._measure, "processes")

    async def collect(self) -> AsyncIterator[Family[Any]]:
        """What the board says, then resource use."""
        boards = self._boards()
        yield Gauges(
            "ensembled_process_up",
            "Whether the process is running.",
            _LABELS,
            [
                (_SUPERVISOR, 1),
                *((labels, bool(board.pid)) for labels, board in boards.items()),
            ],
        )
        yield Counters(
            "ensembled_process_restarts_total",
            "Restarts of the process.",
            _LABELS,
            ((labels, max(0, board.starts - 1)) for labels, board in boards.items()),
        )
        usage = await self._sampler.sample()
        for metric in _USAGE_METRICS:
            yield metric.of(_LABELS, ((labels, values[metric.name]) for labels, values in usage))

    def _boards(self) -> dict[tuple[str, str], BoardRow]:
        memory = self._memory
        return {_labels(name): memory.board(name) for name in memory.spec.processes if name}

    def _measure(self) -> list[tuple[tuple[str, str], dict[str, float]]]:
        """Measure each process: values by metric; one that has just ended is left out."""
        pids = {_SUPERVISOR: os.getppid()}
        pids |= {labels: board.pid for labels, board in self._boards().items() if board.pid}
        self._known = {pid: it for pid, it in self._known.items() if pid in pids.values()}
        measured = []
        for labels, pid in pids.items():
            try:
                process = self._known.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    values = {one.name: float(one.value(process)) for one in _USAGE_METRICS}
            except psutil.Error:
                self._known.pop(pid, None)
            else:
                measured.append((labels, values))
        return measured


def _labels(name: str) -> tuple[str, str]:
    """Role and device of a process of the board."""
    role, _, device = name.partition(" ")
    return role, device
