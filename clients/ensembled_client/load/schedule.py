"""When the requests of an open loop are due, and timers that go off just then.

Every load process makes the whole schedule and takes its share of it, so that together they follow
it exactly. Event loops wake at whole milliseconds, too coarse where a response takes one; Linux's
timer file descriptor is exact to some 0.1 ms without spinning.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Arrival",
    "KernelTimer",
    "LoopTimer",
    "Schedule",
    "Timer",
    "Trace",
    "divide",
    "new_timer",
    "read_trace",
    "share",
]

#: (nanoseconds since the start of the warm-up, rows of the request)
Arrival = tuple[int, int]
#: (seconds since the start, rows) of recorded requests, in order of time.
Trace = tuple[tuple[float, int], ...]

_SECOND_NS = 1_000_000_000
_TIMER_ABSTIME = 1


@dataclass(frozen=True)
class Schedule:
    """When requests are due; exactly one of `rate` and `trace` is given."""

    rate: float | None = None  # requests per second
    poisson: bool = False  # random (exponential) gaps with that mean, instead of equal
    trace: Trace = ()  # recorded requests; empty for none
    rows: int = 1  # of each request, but for a trace's
    warmup_s: float = 0.0  # at the same rate; before a trace, at its mean rate
    duration_s: float | None = None  # of the measurement; None for no end (or the trace's)
    count: int | None = None  # requests in the measurement; None for no limit
    seed: int = 0  # of the random gaps

    def arrivals(self) -> Iterator[Arrival]:
        """Yield all arrivals in order of time, those of the warm-up first."""
        begin_ns = round(self.warmup_s * _SECOND_NS)
        end_ns = (
            math.inf if self.duration_s is None else begin_ns + round(self.duration_s * _SECOND_NS)
        )
        measured = 0
        arrivals = self._recorded(begin_ns) if self.trace else self._at_rate(self.rate)
        for due_ns, rows in arrivals:
            if due_ns >= end_ns:
                return
            if due_ns >= begin_ns:
                if measured == self.count:
                    return
                measured += 1
            yield due_ns, rows

    def _at_rate(self, rate: float | None) -> Iterator[Arrival]:
        assert rate is not None
        if not self.poisson:
            for i in itertools.count():
                yield round(i * _SECOND_NS / rate), self.rows
        gaps = random.Random(self.seed)  # of arrivals, not of secrets
        due_s = 0.0
        while True:
            due_s += gaps.expovariate(rate)
            yield round(due_s * _SECOND_NS), self.rows

    def _recorded(self, begin_ns: int) -> Iterator[Arrival]:
        length_s = self.trace[-1][0]
        rate = len(self.trace) / length_s if length_s > 0 else 1.0
        warmup = Schedule(rate=rate, rows=self.trace[0][1]).arrivals()
        yield from itertools.takewhile(lambda arrival: arrival[0] < begin_ns, warmup)
        for seconds, rows in self.trace:
            yield begin_ns + round(seconds * _SECOND_NS), rows


def share(arrivals: Iterator[Arrival], index: int, of: int) -> Iterator[Arrival]:
    """Yield every `of`-th arrival, from number `index` on: the share of one process."""
    return itertools.islice(arrivals, index, None, of)


def divide(total: int, index: int, of: int) -> int:
    """Return the share of one process of a whole number; all shares together are the total."""
    return total // of + (index < total % of)


def read_trace(document: str, *, rows: int = 1) -> Trace:
    """Read a recorded trace, in the format of ``ensembled simulate --trace``.

    JSON: a list of seconds or of [seconds, rows]; or CSV: ``seconds[,rows]`` a line, where a first
    line may name the columns and lines with # are comments. `rows` is of requests that don't say
    it. Raises ValueError, in one line, if it is neither, empty, or not in order of time.
    """
    if document.lstrip().startswith("["):
        entries, where = _json_list(document), "entry"
    else:
        entries, where = _csv_lines(document), "line"
    trace: list[tuple[float, int]] = []
    before_s = 0.0
    for number, entry in entries:
        seconds, own = _request(entry, rows, f"{where} {number}")
        if seconds < before_s:
            raise ValueError(f"{where} {number}: {seconds:g} s should not be before {before_s:g} s")
        trace.append((seconds, own))
        before_s = seconds
    if not trace:
        raise ValueError("the trace is empty")
    return tuple(trace)


def _json_list(document: str) -> list[tuple[int, Sequence[Any]]]:
    try:
        values = json.loads(document)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    return [(i, one if isinstance(one, list) else [one]) for i, one in enumerate(values, start=1)]


def _csv_lines(document: str) -> list[tuple[int, Sequence[Any]]]:
    lines = [(i, line.strip()) for i, line in enumerate(document.splitlines(), start=1)]
    if lines and lines[0][1].lower().startswith("seconds"):
        del lines[0]
    return [(i, line.split(",")) for i, line in lines if line and not line.startswith("#")]


def _request(entry: Sequence[Any], rows: int, where: str) -> tuple[float, int]:
    try:
        seconds, own = (*entry, rows) if len(entry) == 1 else entry
        recorded = float(seconds), int(own)
    except (TypeError, ValueError, OverflowError):
        text = ",".join(map(str, entry))
        raise ValueError(f"{where}: should be seconds, or seconds and rows: {text!r}") from None
    if not 0 <= recorded[0] < math.inf or recorded[1] < 1:
        raise ValueError(f"{where}: seconds are 0 or more, rows are 1 or more")
    return recorded


# -- timers ------------------------------------------------------------------------------------


def new_timer(callback: Callable[[], None]) -> Timer:
    """Return the most exact timer that the running event loop can have; it calls back once."""
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
    """A timer file descriptor; `os.timerfd_create` needs Python 3.13."""

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
        """Call back at that time of the monotonic clock, at once if it is past; replaces."""
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
        """Call back at that time of the monotonic clock, at once if it is past; replaces."""
        self.close()
        delay_s = max(0, at_ns - time.monotonic_ns()) / _SECOND_NS
        self._handle = self._loop.call_later(delay_s, self._callback)

    def close(self) -> None:
        """Cancel the callback."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


Timer = KernelTimer | LoopTimer
