"""What a simulation run records, and the figures that result: throughput, latency, utilisation.

Used within one simulation run: whose rows are whose, and when requests came and were answered, flow
in; figures flow out at the end.

The cost of a finished job must not grow with the batch: rows are absolute, ever-growing numbers,
ranges of them stay together, and the members still to come of each row are counted in one byte
string that is changed a range at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from allocator.dispatch.pending import Range
from allocator.matrix import AllocationMatrix
from allocator.simulation.workers import SimulatedInstance, SimulatedWorker

__all__ = ["Figures", "InstanceFigures", "LatencyFigures", "Records", "Rows", "figures_of"]

#: What each byte becomes when a member has predicted the row.
_ONE_LESS = bytes([0, *range(255)])


class Rows:
    """All rows so far."""

    def __init__(self) -> None:
        self._left = bytearray()
        self._owner: list[int] = []

    def add(self, owners: Sequence[int], members: int) -> Range:
        """Number the next rows."""
        start = len(self._left)
        self._left.extend(bytes([members]) * len(owners))
        self._owner.extend(owners)
        return start, len(self._left)

    def count(self, ranges: list[Range]) -> list[int]:
        """A member has predicted these rows: return, by row, the owners of those now complete."""
        complete: list[int] = []
        for start, stop in ranges:
            left = self._left[start:stop].translate(_ONE_LESS)
            self._left[start:stop] = left
            over = left.count(0)
            if over == stop - start:
                complete += self._owner[start:stop]
            elif over:
                owner = self._owner
                complete += [owner[start + i] for i, members in enumerate(left) if not members]
        return complete


@dataclass(frozen=True)
class Moment:
    """The counters at one moment, in seconds since the start.

    `busy_s` is by device, `jobs` and `rows` by instance; `process_s` is, by name, the seconds in
    which the processes beside the workers had work.
    """

    time: float
    busy_s: tuple[float, ...]
    jobs: tuple[int, ...]
    rows: tuple[int, ...]
    refused: int
    process_s: dict[str, float]


class Records:
    """The requests, and the counters at both ends of the window that the figures are about.

    By request, `came` and `ended` are seconds since the start (NaN while unanswered). `over` counts
    those answered or refused. `process_s` is, by name, the seconds in which front-end, combiner and
    load generator had work. `window` has the counters at the end of the warm-up, None before.
    """

    def __init__(self, workers: Sequence[SimulatedWorker]) -> None:
        self._workers = workers
        self.instances: list[SimulatedInstance] = [
            instance for worker in workers for instance in worker.instances
        ]
        self.came: list[float] = []
        self.rows: list[int] = []
        self.ended: list[float] = []
        self.over = self.refused = self.events = 0
        self.process_s: dict[str, float] = {}
        self.window: Moment | None = None
        self.end = self._moment(0.0)
        self._start = self.end

    def add(self, count: int, rows: int, now: float) -> int:
        """Requests come; returns the index of the first."""
        first = len(self.came)
        self.came.extend([now] * count)
        self.rows.extend([rows] * count)
        self.ended.extend([math.nan] * count)
        return first

    def answer(self, requests: Sequence[int], now: float) -> None:
        """Requests are answered."""
        for request in requests:
            self.ended[request] = now
        self.over += len(requests)

    def refuse(self) -> None:
        """A request is refused."""
        self.over += 1
        self.refused += 1

    def open_window(self, now: float) -> None:
        """The warm-up is over."""
        self.window = self._moment(now)

    def close(self, now: float) -> None:
        """The run is over. If the warm-up never was, the window is all of it."""
        self.end = self._moment(now)
        if self.window is None:
            self.window = self._start

    def _moment(self, now: float) -> Moment:
        return Moment(
            time=now,
            busy_s=tuple(
                one.busy_s + (now - one.started if one.running else 0.0) for one in self._workers
            ),
            jobs=tuple(one.jobs for one in self.instances),
            rows=tuple(one.rows for one in self.instances),
            refused=self.refused,
            process_s=dict(self.process_s),
        )


@dataclass(frozen=True)
class LatencyFigures:
    """Seconds from a request's arrival to its answer."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    p999_s: float
    max_s: float


@dataclass(frozen=True)
class InstanceFigures:
    """What an instance did; `mean_batch` is rows per job, 0 without jobs."""

    device: str
    member: str
    jobs: int
    rows: int
    mean_batch: float


@dataclass(frozen=True)
class Figures:
    """The figures of a run, all about the window after the warm-up unless they say otherwise.

    Attributes:
        answered: how many requests were answered.
        throughput_rows_s: rows of these requests per second.
        requests_s: these requests per second.
        latency: of these requests; None if there are none.
        goodput_rows_s: rows per second of those answered within the deadline.
        late_share: share of those answered after it; 0 without a deadline.
        refused: how many requests were refused.
        unanswered: how many had come, in the whole run, and were neither answered nor refused.
        utilisation: share of the time in which each device ran a job, by name.
        processes: share of the time in which front-end, combiner and load generator had work, if
            the host's costs were given.
        instances: what each instance did.
        window_s: how long the window was.
        simulated_s: how long the whole run was.
        jobs: how many jobs were run, in the whole run.
        events: how many things happened, in the whole run.
    """

    answered: int
    throughput_rows_s: float
    requests_s: float
    latency: LatencyFigures | None
    goodput_rows_s: float
    late_share: float
    refused: int
    unanswered: int
    utilisation: dict[str, float]
    processes: dict[str, float]
    instances: tuple[InstanceFigures, ...]
    window_s: float
    simulated_s: float
    jobs: int
    events: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as an object that JSON can hold."""
        return asdict(self)


def figures_of(
    records: Records, matrix: AllocationMatrix, deadline_s: float | None = None
) -> Figures:
    """Return the figures of a run that is over."""
    start, end = records.window, records.end
    assert start is not None
    window_s = end.time - start.time
    per_s = 1 / window_s if window_s > 0 else 0.0
    came, ended = np.array(records.came), np.array(records.ended)
    rows = np.array(records.rows)
    # Without a warm-up, what is answered at the very start counts, too.
    inside = (ended > start.time) if start.time else ~np.isnan(ended)
    latency_s, rows = (ended - came)[inside], rows[inside]
    is_late = latency_s > (np.inf if deadline_s is None else deadline_s)
    answered = int(inside.sum())
    return Figures(
        answered=answered,
        throughput_rows_s=float(rows.sum()) * per_s,
        requests_s=answered * per_s,
        latency=_latency(latency_s) if answered else None,
        goodput_rows_s=float(rows[~is_late].sum()) * per_s,
        late_share=float(is_late.mean()) if answered else 0.0,
        refused=end.refused - start.refused,
        unanswered=len(came) - records.over,
        utilisation={
            name: (late - early) * per_s
            for name, early, late in zip(matrix.devices, start.busy_s, end.busy_s, strict=True)
        },
        processes={
            name: (busy_s - start.process_s.get(name, 0.0)) * per_s
            for name, busy_s in end.process_s.items()
        },
        instances=_instances(records),
        window_s=window_s,
        simulated_s=end.time,
        jobs=sum(end.jobs),
        events=records.events,
    )


def _latency(seconds: npt.NDArray[np.float64]) -> LatencyFigures:
    p50, p90, p99, p999 = np.percentile(seconds, (50, 90, 99, 99.9))
    return LatencyFigures(
        mean_s=float(seconds.mean()),
        p50_s=float(p50),
        p90_s=float(p90),
        p99_s=float(p99),
        p999_s=float(p999),
        max_s=float(seconds.max()),
    )


def _instances(records: Records) -> tuple[InstanceFigures, ...]:
    start, end = records.window, records.end
    assert start is not None
    return tuple(
        InstanceFigures(
            device=instance.placement.device.name,
            member=instance.placement.member.name,
            jobs=(jobs := end.jobs[i] - start.jobs[i]),
            rows=(rows := end.rows[i] - start.rows[i]),
            mean_batch=rows / jobs if jobs else 0.0,
        )
        for i, instance in enumerate(records.instances)
    )
