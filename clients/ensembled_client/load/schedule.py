"""When the requests of an open loop are due. Pure.

Out: an iterator of `Arrival`. Every load process makes the whole schedule and takes its share of
it, so that together they follow it exactly.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Arrival", "Schedule", "divide", "read_trace", "share"]

#: (nanoseconds since the start of the warm-up, rows of the request)
Arrival = tuple[int, int]

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Schedule:
    """When requests are due; exactly one of `rate` and `trace` is given.

    Attributes:
        rate: requests per second.
        poisson: whether gaps are random (exponential) with that mean, instead of equal.
        trace: (seconds since its start, rows) of recorded requests, in order of time.
        rows: of each request, but for a trace's.
        warmup_s: before the measurement, at the same rate; before a trace, at its mean rate.
        duration_s: of the measurement; None for no end (or the trace's).
        count: requests in the measurement; None for no limit.
        seed: of the random gaps.
    """

    rate: float | None = None
    poisson: bool = False
    trace: tuple[tuple[float, int], ...] = ()
    rows: int = 1
    warmup_s: float = 0.0
    duration_s: float | None = None
    count: int | None = None
    seed: int = 0

    def arrivals(self) -> Iterator[Arrival]:
        """Yield all arrivals in order of time, those of the warm-up first."""
        begin_ns = round(self.warmup_s * _SECOND_NS)
        end_ns = (
            math.inf if self.duration_s is None else begin_ns + round(self.duration_s * _SECOND_NS)
        )
        measured = 0
        for due_ns, rows in self._endless(begin_ns):
            if due_ns >= end_ns:
                return
            if due_ns >= begin_ns:
                if measured == self.count:
                    return
                measured += 1
            yield due_ns, rows

    def _endless(self, begin_ns: int) -> Iterator[Arrival]:
        if not self.trace:
            assert self.rate is not None
            return self._at_rate(self.rate)
        return itertools.chain(self._before_trace(begin_ns), self._recorded(begin_ns))

    def _at_rate(self, rate: float) -> Iterator[Arrival]:
        if not self.poisson:
            for i in itertools.count():
                yield round(i * _SECOND_NS / rate), self.rows
        gaps = random.Random(self.seed)  # of arrivals, not of secrets
        due_s = 0.0
        while True:
            due_s += gaps.expovariate(rate)
            yield round(due_s * _SECOND_NS), self.rows

    def _before_trace(self, begin_ns: int) -> Iterator[Arrival]:
        length_s = self.trace[-1][0]
        rate = len(self.trace) / length_s if length_s > 0 else 1.0
        constant = Schedule(rate=rate, rows=self.trace[0][1])._at_rate(rate)
        return itertools.takewhile(lambda arrival: arrival[0] < begin_ns, constant)

    def _recorded(self, begin_ns: int) -> Iterator[Arrival]:
        for seconds, rows in self.trace:
            yield begin_ns + round(seconds * _SECOND_NS), rows


def share(arrivals: Iterator[Arrival], index: int, of: int) -> Iterator[Arrival]:
    """Yield every `of`-th arrival, from number `index` on: the share of one process."""
    return itertools.islice(arrivals, index, None, of)


def divide(total: int, index: int, of: int) -> int:
    """Return the share of one process of a whole number; all shares together are the total."""
    return total // of + (index < total % of)


def read_trace(document: str, *, rows: int = 1) -> tuple[tuple[float, int], ...]:
    """Read a recorded trace, in the format of ``ensembled simulate --trace``.

    Args:
        document: JSON, a list of seconds or of [seconds, rows]; or CSV, ``seconds[,rows]`` a line,
            where a first line may name the columns and lines with # are comments.
        rows: of requests that don't say it.

    Returns:
        (seconds since the start, rows) of each request.

    Raises:
        ValueError: in one line, if the document is neither, empty, or not in order of time.
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
