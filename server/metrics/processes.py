"""Metrics of the server's processes: up, restarts, and resource use.

Runs in the front-end. The board in shared memory has the process of each role, the kernel (through
psutil, in a thread) its resource use.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import psutil

from server.metrics.exposition import Counters, Family, Gauges, families
from server.metrics.sampler import Sampler
from workers.runtime.memory import SharedMemory

__all__ = ["ProcessMetrics"]

_LABELS = ("role", "device")
_SUPERVISOR = ("supervisor", "")


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
