"""Exact timers, and how busy and how late the load tester itself is. Runs in each load process.

Event loops wake at whole milliseconds, which is long where a response takes one; a timer file
descriptor of Linux is exact to some 0.1 ms without spinning. CPU time alone hides a process that
waits for a core of a busy machine; the kernel counts that wait, too (/proc/thread-self/schedstat).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = [
    "KernelTimer",
    "LagMonitor",
    "LoopTimer",
    "Timer",
    "CpuUsage",
    "current_usage",
    "new_timer",
]

_SCHEDSTAT = Path("/proc/thread-self/schedstat")
_SECOND_NS = 1_000_000_000
_TIMER_ABSTIME = 1
_LAG_INTERVAL_NS = 20_000_000


class Timer(Protocol):
    """Calls back once at a given time."""

    def set(self, at_ns: int) -> None:
        """Call back at that time of the monotonic clock, at once if it is past; replaces."""

    def close(self) -> None:
        """Never call back again."""


def new_timer(callback: Callable[[], None]) -> Timer:
    """Return the most exact timer that the running event loop can have."""
    if sys.platform == "linux":
        try:
            return KernelTimer(callback)
        except (OSError, AttributeError):  # an old kernel or C library
            pass
    return LoopTimer(callback)


class _TimerSpec(ctypes.Structure):
    """The C struct itimerspec."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class KernelTimer:
    """A timer file descriptor; `os.timerfd_create` needs Python 3.13.

    Raises:
        OSError: if the kernel refuses one.
        AttributeError: if the C library has no such function.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._file: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._expired)

    def set(self, at_ns: int) -> None:
        """Call back at that time; at once if it is past."""
        spec = _TimerSpec(0, 0, *divmod(max(at_ns, 1), _SECOND_NS))
        self._settime(self._file, _TIMER_ABSTIME, ctypes.byref(spec), None)

    def _expired(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # set again since the event
            return
        self._callback()

    def close(self) -> None:
        """Close the file descriptor."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1


class LoopTimer:
    """A timer of the event loop, late by up to a millisecond."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at_ns: int) -> None:
        """Call back at that time; at once if it is past."""
        self.close()
        delay_s = max(0, at_ns - time.monotonic_ns()) / _SECOND_NS
        self._handle = self._loop.call_later(delay_s, self._callback)

    def close(self) -> None:
        """Cancel the callback."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class LagMonitor:
    """Measures every 20 ms how late the event loop calls a timer.

    Args:
        record: called with each lag in nanoseconds.
        new_timer: makes the timer.
        clock_ns: the monotonic clock.
    """

    def __init__(
        self,
        record: Callable[[int], None],
        new_timer: Callable[[Callable[[], None]], Timer],
        clock_ns: Callable[[], int],
    ) -> None:
        self._record = record
        self._clock_ns = clock_ns
        self._timer = new_timer(self._tick)
        self._due_ns = 0

    def start(self) -> None:
        """Begin to measure."""
        self._due_ns = self._clock_ns() + _LAG_INTERVAL_NS
        self._timer.set(self._due_ns)

    def _tick(self) -> None:
        now_ns = self._clock_ns()
        # A loop that was blocked for long was late for each tick that it missed.
        while self._due_ns <= now_ns:
            self._record(now_ns - self._due_ns)
            self._due_ns += _LAG_INTERVAL_NS
        self._timer.set(self._due_ns)

    def close(self) -> None:
        """Stop measuring."""
        self._timer.close()


@dataclass(frozen=True)
class CpuUsage:
    """What a process has used.

    Attributes:
        wall_ns: elapsed time.
        thread_ns: CPU time of the thread that sends and receives.
        wait_ns: time that this thread waited for a core; 0 where the kernel does not count it.
        process_ns: CPU time of all threads.
    """

    wall_ns: int
    thread_ns: int
    wait_ns: int
    process_ns: int

    def __sub__(self, other: CpuUsage) -> CpuUsage:
        return CpuUsage(
            self.wall_ns - other.wall_ns,
            self.thread_ns - other.thread_ns,
            self.wait_ns - other.wait_ns,
            self.process_ns - other.process_ns,
        )

    @property
    def busy_share(self) -> float:
        """The share of the time in which the thread had work to do, on a core or not; 0 to 1."""
        if self.wall_ns <= 0:
            return 0.0
        return min(1.0, (self.thread_ns + self.wait_ns) / self.wall_ns)


def current_usage() -> CpuUsage:
    """Return the usage of the calling thread and its process since they started."""
    try:
        wait_ns = int(_SCHEDSTAT.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        wait_ns = 0
    return CpuUsage(time.monotonic_ns(), time.thread_time_ns(), wait_ns, time.process_time_ns())
