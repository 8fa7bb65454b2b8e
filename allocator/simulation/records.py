"""What a simulation run keeps: whose rows are whose, when requests came and were answered.

Used within one simulation run; `figures` reads the records at the end.

The cost of a finished job must not grow with the batch: rows are absolute, ever-growing numbers,
ranges of them stay together, and the members still to come of each row are counted in one byte
string that is changed a range at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from allocator.dispatch.pending import Range
from allocator.simulation.workers import SimulatedInstance, SimulatedWorker

__all__ = ["Records", "Rows"]

#: What each byte becomes when a member has predicted the row.
_ONE_LESS = bytes([0, *range(255)])


class Rows:
    """All rows so far."""

    def __init__(self) -> None:
        self._left = bytearray()
        self._owner: list[int] = []

    def add(self, owners: Sequence[int], members: int) -> Range:
        """Number the next rows.

        Args:
            owners: the request of each.
            members: how many are to predict them.
        """
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
    """The counters at one moment.

    Attributes:
        time: seconds since the start.
        busy_s: of each device.
        jobs: of each instance.
        rows: of each instance.
        refused: how many requests so far.
        process_s: seconds in which the processes beside the workers had work, by name.
    """

    time: float
    busy_s: tuple[float, ...]
    jobs: tuple[int, ...]
    rows: tuple[int, ...]
    refused: int
    process_s: dict[str, float]


class Records:
    """The requests, and the counters at both ends of the window that the figures are about.

    Args:
        workers: whose counters are read.

    Attributes:
        instances: of all workers.
        came: by request, seconds since the start.
        rows: by request.
        ended: by request, when it was answered; NaN if it was not.
        over: how many requests are answered or refused.
        refused: how many are refused.
        events: how many things happened.
        process_s: seconds in which front-end, combiner and load generator had work, by name.
        window: the counters at the end of the warm-up; None before.
        end: the counters at the end.
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
