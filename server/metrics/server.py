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
from typing import Any, NamedTuple

import psutil

from server.engine.histogram import LAGS_S, Histogram
from server.inference.inference import Inference
from server.metrics.exposition import Counters, Family, Gauges, Histograms, families
from server.metrics.sampler import Sampler
from workers.runtime.memory import SharedMemory

__all__ = ["LoopLag", "ProcessMetrics", "ServerMetrics"]

_TICK_S = 0.05
_LIMITS = ("connections", "idle", "header", "header_bytes", "body", "write", "unread")
_LABELS = ("role", "device")
_SUPERVISOR = ("supervisor", "")


class LoopLag:
    """Measures how late the event loop runs a timer, twenty times a second.

    Attributes:
        lags: in seconds.
    """

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


class ServerMetrics:
    """Collects the metrics of the server.

    Args:
        inference: knows whether it is ready.
        lag: of the event loop.
        connections: returns how many HTTP connections are open, and how many each limit has ended.
    """

    def __init__(
        self, inference: Inference, lag: LoopLag, connections: Callable[[], Mapping[str, int]]
    ) -> None:
        self._inference = inference
        self._lag = lag
        self._connections = connections
        self._build = (version("ensembled"), platform.python_version())

    async def collect(self) -> AsyncIterator[Family[Any]]:
        """Build, state, event loop, connections."""
        build = [(self._build, 1.0)]
        yield Gauges(
            "ensembled_build_info",
            "Versions of the server and of Python.",
            ("version", "python"),
            build,
        )
        yield Gauges(
            "ensembled_ready",
            "Whether the server takes traffic.",
            (),
            [((), self._inference.is_ready)],
        )
        yield Gauges(
            "ensembled_draining",
            "Whether the server is stopping, and still answers accepted requests.",
            (),
            [((), self._inference.is_leaving)],
        )
        yield Histograms(
            "ensembled_event_loop_lag_seconds",
            "How late the front-end's event loop ran a timer.",
            (),
            [((), self._lag.lags)],
        )
        connections = {**dict.fromkeys(_LIMITS, 0), **self._connections()}
        yield Gauges(
            "ensembled_connections",
            "Open HTTP connections.",
            (),
            [((), connections.pop("open"))],
        )
        yield Counters(
            "ensembled_connections_ended_total",
            "HTTP connections that were ended or refused by a limit.",
            ("limit",),
            (((limit,), number) for limit, number in connections.items()),
        )


class _Usage(NamedTuple):
    """Resource use of a process."""

    started: float
    cpu_s: float
    resident_bytes: int
    fds: int
    max_fds: int
    threads: int


_USAGE_METRICS = (
    Gauges.define(
        "ensembled_process_start_time_seconds",
        "Start of the process, as Unix time.",
        lambda usage: usage.started,
    ),
    Counters.define(
        "ensembled_process_cpu_seconds_total", "CPU time of the process.", lambda usage: usage.cpu_s
    ),
    Gauges.define(
        "ensembled_process_resident_memory_bytes",
        "Resident memory of the process, shared memory included.",
        lambda usage: usage.resident_bytes,
    ),
    Gauges.define(
        "ensembled_process_open_fds",
        "Open file descriptors of the process.",
        lambda usage: usage.fds,
    ),
    Gauges.define(
        "ensembled_process_max_fds",
        "Maximum number of open file descriptors of the process.",
        lambda usage: usage.max_fds,
    ),
    Gauges.define(
        "ensembled_process_threads", "Threads of the process.", lambda usage: usage.threads
    ),
)


class ProcessMetrics:
    """Collects the metrics of processes.

    Args:
        memory: has the board.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._boards = {_labels(name): memory.board(name) for name in memory.spec.processes}
        self._known: dict[int, psutil.Process] = {}
        self._sampler = Sampler(self._measure, "processes")

    async def collect(self) -> AsyncIterator[Family[Any]]:
        """What the board says, then resource use."""
        yield Gauges(
            "ensembled_process_up",
            "Whether the process is running.",
            _LABELS,
            [
                (_SUPERVISOR, 1),
                *((labels, bool(board.pid)) for labels, board in self._boards.items()),
            ],
        )
        yield Counters(
            "ensembled_process_restarts_total",
            "Restarts of the process.",
            _LABELS,
            ((labels, max(0, board.starts - 1)) for labels, board in self._boards.items()),
        )
        for family in families(_USAGE_METRICS, _LABELS, await self._sampler.sample()):
            yield family

    def _measure(self) -> list[tuple[tuple[str, str], _Usage]]:
        """Measure each process; one that has just ended is left out."""
        pids = {_SUPERVISOR: os.getppid()}
        pids |= {labels: board.pid for labels, board in self._boards.items() if board.pid}
        self._known = {pid: it for pid, it in self._known.items() if pid in pids.values()}
        return [(labels, usage) for labels, pid in pids.items() if (usage := self._usage(pid))]

    def _usage(self, pid: int) -> _Usage | None:
        try:
            process = self._known.setdefault(pid, psutil.Process(pid))
            with process.oneshot():
                times = process.cpu_times()
                return _Usage(
                    started=process.create_time(),
                    cpu_s=times.user + times.system,
                    resident_bytes=process.memory_info().rss,
                    fds=process.num_fds(),
                    max_fds=process.rlimit(psutil.RLIMIT_NOFILE)[0],
                    threads=process.num_threads(),
                )
        except psutil.Error:
            self._known.pop(pid, None)
            return None


def _labels(name: str) -> tuple[str, str]:
    """Role and device of a process of the board."""
    role, _, device = name.partition(" ")
    return role, device
