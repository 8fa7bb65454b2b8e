"""What happened to the requests: counters and latency histograms. No I/O.

Each load process records its own `RequestStats`; the parent merges them. *Latency and errors* are
of the requests whose intended start lies in the measurement, whenever they end, so that a stall at
its end is not lost; *throughput* is of the responses that arrive in it, so that what an overloaded
server answers later does not add to it.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hdrh.histogram import HdrHistogram

from ensembled_client.wire import Array

__all__ = [
    "BIN_NS",
    "CpuUsage",
    "DurationHistogram",
    "RequestResult",
    "RequestStats",
    "Window",
    "connect_error",
    "current_usage",
    "error_kind",
    "find_fault",
    "merge_stats",
]

#: The width of a bin of the time series.
BIN_NS = 100_000_000

_SCHEDSTAT = Path("/proc/thread-self/schedstat")
_MAX_ERROR_KINDS = 64
_MAX_KIND_CHARACTERS = 120
_NUMBERS = re.compile(r"\d+(\.\d+)?")
_OTHER_ERRORS = "errors of other kinds"
_RECENT_REQUESTS = 4096

_MIN_NS = 100
_MAX_NS = 3_600 * 1_000_000_000
_DIGITS = 3
# HdrHistogram's layout for these: buckets of 11 significant bits, in units of 64 ns.
_BUCKET_BITS = 11
_UNIT_BITS = 6


class RequestResult(NamedTuple):
    """How a request ended."""

    error: str | None  # its kind; None after a good response
    is_degraded: bool = False  # rests on fewer members than the ensemble has


def connect_error(error: OSError) -> str:
    """Return the kind of error of a failure to connect."""
    return f"connect: {error.strerror or str(error) or type(error).__name__}"


def error_kind(status: object, message: str) -> str:
    """Return the kind of an error: messages that differ in numbers alone are one kind."""
    text = _NUMBERS.sub("N", " ".join(message.split()))
    if len(text) > _MAX_KIND_CHARACTERS:
        text = text[:_MAX_KIND_CHARACTERS] + "…"
    return f"{status}: {text}" if text else str(status)


def find_fault(outputs: Mapping[str, Array], rows: int) -> str | None:
    """Return what is wrong with a decoded response to a request of so many rows; None: nothing."""
    if not outputs:
        return "it has no output"
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            return f"output {name!r} has the shape {list(array.shape)}, the request {rows} rows"
    return None


class DurationHistogram:
    """Durations in the buckets of an HDR histogram: three digits from 0.1 microseconds to an hour.

    A dictionary by the lowest value of each bucket: recording is several times cheaper than in an
    `HdrHistogram`, which is built for quantiles and export. Mean and minimum are exact.
    """

    __slots__ = ("_counts", "_min_ns", "_total_ns")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total_ns = 0
        self._min_ns = _MAX_NS

    def record(self, duration_ns: int) -> None:
        """Count a duration; one that is out of range counts as the nearest in it."""
        if not 0 <= duration_ns <= _MAX_NS:
            duration_ns = 0 if duration_ns < 0 else _MAX_NS
        shift = max(duration_ns.bit_length() - _BUCKET_BITS, _UNIT_BITS)
        bucket_ns = duration_ns >> shift << shift
        self._counts[bucket_ns] = self._counts.get(bucket_ns, 0) + 1
        self._total_ns += duration_ns
        self._min_ns = min(self._min_ns, duration_ns)

    def __add__(self, other: DurationHistogram) -> DurationHistogram:
        total = DurationHistogram()
        total._counts = dict(Counter(self._counts) + Counter(other._counts))
        total._total_ns = self._total_ns + other._total_ns
        total._min_ns = min(self._min_ns, other._min_ns)
        return total

    def to_hdr(self) -> HdrHistogram:
        """Return the durations in nanoseconds as an HDR histogram."""
        histogram = HdrHistogram(_MIN_NS, _MAX_NS, _DIGITS)
        for bucket_ns, count in self._counts.items():
            histogram.record_value(bucket_ns, count)
        return histogram

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self._counts.values())

    @property
    def mean_ms(self) -> float:
        """The mean; 0 if there are none."""
        return self._total_ns / self.count / 1e6 if self._counts else 0.0

    @property
    def min_ms(self) -> float:
        """The shortest; 0 if there are none."""
        return self._min_ns / 1e6 if self._counts else 0.0

    def quantiles_ms(self, shares: Sequence[float]) -> list[float]:
        """Return the quantiles of these shares (0 to 1), at most 0.1% too high; 0 for none."""
        if not self._counts:
            return [0.0] * len(shares)
        percents = [share * 100 for share in shares]
        values = self.to_hdr().get_percentile_to_value_dict(percents)
        return [values[percent] / 1e6 for percent in percents]


@dataclass(frozen=True)
class CpuUsage:
    """What a process has used; CPU time alone would hide one that waits for a core."""

    wall_ns: int  # elapsed
    thread_ns: int  # CPU time of the thread that sends and receives
    wait_ns: int  # of this thread for a core; 0 where the kernel does not count it
    process_ns: int  # CPU time of all threads

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


@dataclass
class Window:
    """The measurement, in nanoseconds of the monotonic clock."""

    begin_ns: int  # the end of the warm-up
    end_ns: int | None = None  # the time of the last response; None while unknown

    def has_begun(self, at_ns: int) -> bool:
        """Whether the warm-up is over at that time."""
        return at_ns >= self.begin_ns

    def contains(self, at_ns: int) -> bool:
        """Whether that time is in the measurement."""
        return self.begin_ns <= at_ns and (self.end_ns is None or at_ns < self.end_ns)


@dataclass(eq=False)
class RequestStats:
    """Counters and histograms of the requests of one load process, or of several."""

    window: Window
    deadline_ns: int | None = None  # for `in_time`; None for none
    keeps_service: bool = True  # whether requests can be sent later than intended
    sent: int = 0  # requests whose intended start was in the measurement
    succeeded: int = 0  # of `sent`, with a good response
    errors: Counter[str] = field(default_factory=Counter)  # of `sent`, by kind
    abandoned: int = 0  # of `sent`, without a response when the test was interrupted
    degraded: int = 0  # good responses of fewer members than the ensemble has
    queued: int = 0  # requests that were due while all connections were busy
    # Of the good responses: from the intended start, and from the actual sending.
    latency: DurationHistogram = field(default_factory=DurationHistogram)
    service: DurationHistogram = field(default_factory=DurationHistogram)
    responses: int = 0  # good ones that arrived in the measurement
    rows: int = 0  # of `responses`
    in_time: int = 0  # of `responses`, within the deadline
    good_bins: Counter[int] = field(default_factory=Counter)  # by `BIN_NS` since the begin
    error_bins: Counter[int] = field(default_factory=Counter)  # the same of errors
    # How late due requests were noticed (open loop only), and how late event loops called timers.
    schedule_lag: DurationHistogram = field(default_factory=DurationHistogram)
    loop_lag: DurationHistogram = field(default_factory=DurationHistogram)
    usages: tuple[CpuUsage, ...] = ()  # one of each load process
    was_interrupted: bool = False
    recent_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT_REQUESTS))
    last_ns: int = 0

    def record_start(self, intended_ns: int) -> None:
        """Count a request that is sent, or due."""
        if self.window.contains(intended_ns):
            self.sent += 1

    def record_lag(self, intended_ns: int, now_ns: int) -> None:
        """Record how late a due request was noticed."""
        if self.window.contains(intended_ns):
            self.schedule_lag.record(now_ns - intended_ns)

    def record_queued(self, intended_ns: int) -> None:
        """Count a request that was due while all connections were busy."""
        if self.window.contains(intended_ns):
            self.queued += 1

    def record_end(
        self, intended_ns: int, sent_ns: int, now_ns: int, rows: int, result: RequestResult
    ) -> None:
        """Record how a request ended."""
        latency_ns = now_ns - intended_ns
        self.last_ns = now_ns
        self.recent_ns.append(latency_ns)
        if self.window.contains(now_ns):
            self._record_arrival(latency_ns, now_ns, rows, result.error is None)
        if not self.window.contains(intended_ns):
            return
        if result.error is None:
            self.succeeded += 1
            self.degraded += result.is_degraded
            self.latency.record(latency_ns)
            if self.keeps_service:
                self.service.record(now_ns - sent_ns)
        else:
            known = result.error in self.errors or len(self.errors) < _MAX_ERROR_KINDS
            self.errors[result.error if known else _OTHER_ERRORS] += 1

    def _record_arrival(self, latency_ns: int, now_ns: int, rows: int, is_good: bool) -> None:
        number = (now_ns - self.window.begin_ns) // BIN_NS
        if not is_good:
            self.error_bins[number] += 1
            return
        self.good_bins[number] += 1
        self.responses += 1
        self.rows += rows
        if self.deadline_ns is not None and latency_ns <= self.deadline_ns:
            self.in_time += 1

    def record_abandoned(self, intended_ns: int) -> None:
        """Count a request that has no response when the test is interrupted."""
        if self.window.contains(intended_ns):
            self.abandoned += 1

    def close_window(self) -> None:
        """End a measurement without a planned end at the last response."""
        if self.window.end_ns is None:
            self.window.end_ns = max(self.last_ns, self.window.begin_ns)


_SUMMED = (
    "sent", "succeeded", "errors", "abandoned", "degraded", "queued", "latency", "service",
    "responses", "rows", "in_time", "good_bins", "error_bins", "schedule_lag", "loop_lag", "usages",
)  # fmt: skip


def merge_stats(parts: Sequence[RequestStats]) -> RequestStats:
    """Return the statistics of all processes together; there is at least one."""
    ends = [part.window.end_ns for part in parts if part.window.end_ns is not None]
    total = RequestStats(Window(min(part.window.begin_ns for part in parts), max(ends)))
    for part in parts:
        for name in _SUMMED:
            setattr(total, name, getattr(total, name) + getattr(part, name))
        total.was_interrupted |= part.was_interrupted
    return total
