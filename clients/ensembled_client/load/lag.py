"""How busy and how late the tester itself is: runs in each process that makes load.

CPU time alone hides a tester that waits for a core of a full machine. The kernel counts that wait,
too (/proc/self/schedstat), so *busy* is here: had work to do, whether it got a core or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ensembled_client.load.histogram import Durations

__all__ = ["Alarm", "LoopWatch", "Usage", "UsageMeter", "usage_now"]

_SCHEDSTAT = Path("/proc/thread-self/schedstat")
_EVERY_NS = 20_000_000


@dataclass(frozen=True)
class Usage:
    """What a process has used.

    Attributes:
        wall_ns: time that went by.
        loop_ns: CPU time of the thread that sends and receives.
        wait_ns: time that this thread waited for a core; 0 where the system does not tell.
        process_ns: CPU time of all threads.
    """

    wall_ns: int
    loop_ns: int
    wait_ns: int
    process_ns: int

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.wall_ns - other.wall_ns,
            self.loop_ns - other.loop_ns,
            self.wait_ns - other.wait_ns,
            self.process_ns - other.process_ns,
        )

    @property
    def busy_share(self) -> float:
        """The share of the time in which the sending thread had work to do, 0 to 1."""
        if self.wall_ns <= 0:
            return 0.0
        return min(1.0, (self.loop_ns + self.wait_ns) / self.wall_ns)


def usage_now() -> Usage:
    """The usage of the calling thread and its process so far."""
    return Usage(
        time.monotonic_ns(), time.thread_time_ns(), _run_queue_ns(), time.process_time_ns()
    )


def _run_queue_ns() -> int:
    try:
        return int(_SCHEDSTAT.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


class UsageMeter:
    """The usage between `start` and `stop`; a second `stop` changes nothing."""

    def __init__(self, read: Callable[[], Usage] = usage_now) -> None:
        self._read = read
        self._started: Usage | None = None
        self._used: Usage | None = None

    def start(self) -> None:
        """Count from now on."""
        self._started = self._read()

    def stop(self) -> None:
        """Count no more."""
        if self._started is not None and self._used is None:
            self._used = self._read() - self._started

    @property
    def used(self) -> Usage:
        """What was used; nothing if it was never started."""
        self.stop()
        return self._used or Usage(0, 0, 0, 0)


class Alarm(Protocol):
    """Something that calls back at a time."""

    def set(self, at_ns: int) -> None:
        """Call back at that time of the monotonic clock; replaces an earlier wish."""

    def close(self) -> None:
        """Never call back again."""


class LoopWatch:
    """Measures how late the event loop gets to what is due.

    Args:
        alarm: makes an alarm of a callback.
        clock_ns: the monotonic clock.
    """

    def __init__(
        self, alarm: Callable[[Callable[[], None]], Alarm], clock_ns: Callable[[], int]
    ) -> None:
        self.lags = Durations()
        self._clock_ns = clock_ns
        self._alarm = alarm(self._tick)
        self._due_ns = 0

    def start(self) -> None:
        """Look every 20 ms from now on."""
        self._due_ns = self._clock_ns() + _EVERY_NS
        self._alarm.set(self._due_ns)

    def _tick(self) -> None:
        now_ns = self._clock_ns()
        # A loop that was stuck for long was late for each look that it missed.
        while self._due_ns <= now_ns:
            self.lags.record(now_ns - self._due_ns)
            self._due_ns += _EVERY_NS
        self._alarm.set(self._due_ns)

    def close(self) -> None:
        """Look no more."""
        self._alarm.close()
