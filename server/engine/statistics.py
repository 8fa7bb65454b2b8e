"""Counters of what was done and how long it took; source of the statistics and the metrics.

Runs in the front-end. Ensembles count requests: each one that named the model counts once, as a
success or as a failure. Members count rows, whichever ensemble they were predicted for, because
their batches hold rows of many requests. Times are kept in seconds and reported in nanoseconds.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from server.engine.request import Answer
from server.errors import QueueReason

__all__ = [
    "BATCH_ROWS",
    "LAGS_S",
    "OUTCOMES",
    "REASONS",
    "TIMES_S",
    "Histogram",
    "InstanceCounters",
    "MemberCounters",
    "ModelCounters",
    "RequestTimes",
    "member_statistics",
    "model_statistics",
]

#: From a header that is looked up to a deadline of half a minute.
TIMES_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
BATCH_ROWS = tuple(float(1 << power) for power in range(13))
LAGS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
#: So many times of requests, five each, are observed in the histograms at once.
_MOST_BUFFERED = 5 * 256

#: The outcomes of requests, and the reasons for refusals (see `server.errors`).
OUTCOMES = (
    *("ok", "degraded", "invalid", "unauthenticated", "forbidden", "unknown_model"),
    *("body_timeout", "too_large", "queue_full", "member_failed", "unavailable", "deadline"),
    *("disconnected", "internal"),
)
REASONS = (
    *get_args(QueueReason),
    *("starting", "draining", "no_quorum"),
    *("too_large", "body_timeout", "unauthenticated", "forbidden"),
)


class Histogram:
    """Counts observations by the least bound that is not below them, and sums them."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: tuple[float, ...] = TIMES_S) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: npt.NDArray[np.float64]) -> None:
        """Count many, [n]: quicker than one by one from a dozen on."""
        places = np.searchsorted(self.bounds, values)
        for place, more in enumerate(np.bincount(places).tolist()):
            self._counts[place] += more
        self.sum += float(values.sum())

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many there were for each bound and for more than the last, no trailing zeros."""
        used = len(self._counts)
        while used and not self._counts[used - 1]:
            used -= 1
        return tuple(self._counts[:used])

    def cumulated(self) -> list[int]:
        """For each bound how many were not above it, and for no bound how many there were."""
        return list(accumulate(self._counts))


class RequestTimes(NamedTuple):
    """Times of answered requests: the first is the sum of the others, the stages in their order.

    Attributes:
        whole: from having the request's body to having its response.
        input: from having the body to acceptance: parsing, decoding, preparing.
        queue: from acceptance until the last of a request's jobs was handed to a worker.
        infer: from then until the last of its rows was combined.
        output: from then to having the response.
    """

    whole: Histogram
    input: Histogram
    queue: Histogram
    infer: Histogram
    output: Histogram


class ModelCounters:
    """Requests to one model. All times are in seconds, one observation per request.

    Attributes:
        rows: of the successes.
        failure: times from having a request's head to having the error.
        last: when the last answer was given, as Unix time; 0 if there was none.
        saved: members' predictions of rows that were not needed, thanks to cascades and to answers
            that were certain early.
    """

    def __init__(self) -> None:
        self.outcomes: defaultdict[str, int] = defaultdict(int)
        self.refusals: defaultdict[str, int] = defaultdict(int)
        self.rows = 0
        self.failure = Histogram()
        self.last = 0.0
        self.saved = 0
        self._times = RequestTimes(*(Histogram() for _ in RequestTimes._fields))
        self._buffered: list[float] = []

    @property
    def times(self) -> RequestTimes:
        """How long the successes took."""
        self._flush()
        return self._times

    def succeed(self, arrived: float, answer: Answer) -> None:
        """Count a request with a response; `arrived` is when its body had been received."""
        self.outcomes["degraded" if answer.degraded else "ok"] += 1
        self.rows += answer.rows
        self.last = time.time()
        self.saved += answer.saved
        buffered = self._buffered
        buffered += (arrived, answer.accepted, answer.started, answer.ended, time.monotonic())
        if len(buffered) > _MOST_BUFFERED:  # five histograms at each request would be slow
            self._flush()

    def _flush(self) -> None:
        if not self._buffered:
            return
        moments = np.array(self._buffered).reshape(-1, len(RequestTimes._fields))
        self._buffered.clear()
        stages = np.diff(moments).T
        for histogram, times in zip(
            self._times, (moments[:, -1] - moments[:, 0], *stages), strict=True
        ):
            histogram.observe_all(times)

    def fail(self, arrived: float, error: BaseException) -> None:
        """Count a request that gets an error, or whose client has gone."""
        self.failure.observe(time.monotonic() - arrived)
        if isinstance(error, asyncio.CancelledError):
            self.outcomes["disconnected"] += 1
            return
        self.outcomes[getattr(error, "outcome", "internal")] += 1
        if reason := getattr(error, "reason", ""):
            self.refusals[reason] += 1


@dataclass(slots=True)
class MemberCounters:
    """What a member has done, for all ensembles. All times are sums over rows, in seconds.

    Attributes:
        rows, failed: rows that it predicted, and that it failed on.
        queue_s: how long the rows waited for their batch to be handed to a worker.
        infer_s, failed_s: how long the batches took that they were in.
        batches: by rows of a batch, how many there were and how many seconds they took.
        wait: how long the oldest row of each batch waited.
        last: when the last batch ended, as Unix time; 0 if there was none.
    """

    rows: int = 0
    failed: int = 0
    queue_s: float = 0.0
    infer_s: float = 0.0
    failed_s: float = 0.0
    batches: defaultdict[int, list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0.0])
    )
    wait: Histogram = field(default_factory=Histogram)
    last: float = 0.0

    def run(self, rows: int, failed: int, waited_s: float, elapsed_s: float) -> None:
        """Count a batch, unless it was skipped because none of its rows was needed any more."""
        if not rows + failed:
            return
        self.rows += rows
        self.failed += failed
        self.queue_s += waited_s * (rows + failed)
        self.infer_s += elapsed_s * rows
        self.failed_s += elapsed_s * failed
        batch = self.batches[rows + failed]
        batch[0] += 1
        batch[1] += elapsed_s
        self.wait.observe(waited_s)
        self.last = time.time()


@dataclass(slots=True)
class InstanceCounters:
    """What a member has done on one device: rows of its batches and their times in seconds.

    `busy_s` is of all its jobs, also of those whose rows were not needed any more.
    """

    rows: Histogram = field(default_factory=lambda: Histogram(BATCH_ROWS))
    times: Histogram = field(default_factory=Histogram)
    busy_s: float = 0.0

    def run(self, rows: int, elapsed_s: float) -> None:
        """Count a job, of which so many rows were predicted or failed."""
        self.busy_s += elapsed_s
        if rows:
            self.rows.observe(rows)
            self.times.observe(elapsed_s)


def model_statistics(name: str, version: str, counted: ModelCounters) -> dict[str, Any]:
    """The protocol's statistics of an ensemble."""
    times = counted.times
    return {
        "name": name,
        "version": version,
        "last_inference": _ms(counted.last),
        "inference_count": counted.rows,
        "execution_count": times.whole.count,
        "inference_stats": {
            "success": _observed(times.whole),
            "fail": _observed(counted.failure),
            "queue": _observed(times.queue),
            "compute_input": _observed(times.input),
            "compute_infer": _observed(times.infer),
            "compute_output": _observed(times.output),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [],
        "predictions_saved": counted.saved,
    }


def member_statistics(name: str, version: str, counted: MemberCounters) -> dict[str, Any]:
    """The protocol's statistics of a member: its counts are rows.

    The time to read inputs and to write predictions is part of the inference.
    """
    n, failed = counted.rows, counted.failed
    return {
        "name": name,
        "version": version,
        "last_inference": _ms(counted.last),
        "inference_count": n,
        "execution_count": sum(int(batch[0]) for batch in counted.batches.values()),
        "inference_stats": {
            "success": _duration(n, counted.queue_s + counted.infer_s),
            "fail": _duration(failed, counted.failed_s),
            "queue": _duration(n + failed, counted.queue_s),
            "compute_input": _duration(n, 0.0),
            "compute_infer": _duration(n, counted.infer_s),
            "compute_output": _duration(n, 0.0),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(int(count), 0.0),
                "compute_infer": _duration(int(count), seconds),
                "compute_output": _duration(int(count), 0.0),
            }
            for rows, (count, seconds) in sorted(counted.batches.items())
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


def _observed(times: Histogram) -> dict[str, int]:
    return _duration(times.count, times.sum)


def _ms(moment: float) -> int:
    return round(moment * 1000)
