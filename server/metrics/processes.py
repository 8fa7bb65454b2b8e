"""Metrics of the server's processes: alive, started how often, and what they take.

Runs in the front-end. The board of the shared memory tells which process plays a role, the kernel
(through psutil, in a thread) what it takes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import psutil

from server.metrics.families import AnyFamily, Counters, Gauges
from server.metrics.sampler import Sampler
from workers.runtime.memory import SharedMemory

__all__ = ["ProcessMetrics"]

_LABELS = ("role", "device")


@dataclass(frozen=True)
class _Use:
    """What a process takes."""

    started: float
    cpu_s: float
    resident_bytes: int
    fds: int
    max_fds: int
    threads: int


_USES: tuple[tuple[type[Counters] | type[Gauges], str, str, Callable[[_Use], float]], ...] = (
    (
        Gauges,
        "ensembled_process_start_time_seconds",
        "When the process was started, as Unix time.",
        lambda use: use.started,
    ),
    (
        Counters,
        "ensembled_process_cpu_seconds_total",
        "Processor time that the process has used.",
        lambda use: use.cpu_s,
    ),
    (
        Gauges,
        "ensembled_process_resident_memory_bytes",
        "Memory that the process has in RAM, shared memory included.",
        lambda use: use.resident_bytes,
    ),
    (
        Gauges,
        "ensembled_process_open_fds",
        "File descriptors that the process has open.",
        lambda use: use.fds,
    ),
    (
        Gauges,
        "ensembled_process_max_fds",
        "File descriptors that the process may have open.",
        lambda use: use.max_fds,
    ),
    (Gauges, "ensembled_process_threads", "Threads of the process.", lambda use: use.threads),
)


class ProcessMetrics:
    """Collects them.

    Args:
        memory: has the board.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._boards = {_labels(name): memory.board(name) for name in memory.spec.processes}
        self._known: dict[int, psutil.Process] = {}
        self._sampler = Sampler(self._measure, "processes")

    async def collect(self) -> AsyncIterator[AnyFamily]:
        """Who lives, then what they take."""
        yield Gauges(
            "ensembled_process_up",
            "Whether the process is there.",
            _LABELS,
            [
                (("supervisor", ""), 1),
                *((labels, bool(board.pid)) for labels, board in self._boards.items()),
            ],
        )
        yield Counters(
            "ensembled_process_restarts_total",
            "How often the process was started again.",
            _LABELS,
            ((labels, max(0, board.starts - 1)) for labels, board in self._boards.items()),
        )
        used = await self._sampler.sample()
        for kind, name, text, value in _USES:
            yield kind(name, text, _LABELS, ((labels, value(use)) for labels, use in used.items()))

    def _measure(self) -> dict[tuple[str, str], _Use]:
        """What each process takes; one that has just ended is left out."""
        pids = {("supervisor", ""): os.getppid()}
        pids |= {labels: board.pid for labels, board in self._boards.items() if board.pid}
        self._known = {pid: it for pid, it in self._known.items() if pid in pids.values()}
        return {labels: use for labels, pid in pids.items() if (use := self._use(pid))}

    def _use(self, pid: int) -> _Use | None:
        try:
            process = self._known.setdefault(pid, psutil.Process(pid))
            with process.oneshot():
                times = process.cpu_times()
                return _Use(
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
