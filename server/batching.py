"""The rows that wait for one member: ranges in the order of their arrival.

Runs in the front-end; pure. Ranges come in by request and go out by batch: contiguous ones are
merged when they are taken, so that a batch is one zero-copy view wherever possible.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["PendingRanges", "Range", "merge", "subtract"]

Range = tuple[int, int]


def merge(ranges: list[Range], segment_rows: int) -> list[Range]:
    """Join neighbours that touch, except across a segment's boundary."""
    merged: list[Range] = []
    for start, stop in ranges:
        if merged and merged[-1][1] == start and start % segment_rows:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def subtract(ranges: list[Range], start: int, stop: int) -> list[Range]:
    """What is left of `ranges` without the rows of [start, stop)."""
    rest: list[Range] = []
    for first, last in ranges:
        if first < min(last, start):
            rest.append((first, min(last, start)))
        if max(first, stop) < last:
            rest.append((max(first, stop), last))
    return rest


@dataclass(slots=True)
class _Waiting:
    start: int
    stop: int
    since: float


class PendingRanges:
    """First come, first served; what a dead worker held comes first, a suspect row goes alone.

    Attributes:
        rows: how many rows wait.
    """

    def __init__(self, segment_rows: int) -> None:
        self.rows = 0
        self._segment_rows = segment_rows
        self._waiting: deque[_Waiting] = deque()
        self._suspects: deque[_Waiting] = deque()

    @property
    def since(self) -> float:
        """When the oldest waiting row came, on the clock of `append`. Only if there are rows."""
        return self._suspects[0].since if self._is_suspect_next() else self._waiting[0].since

    def append(self, start: int, stop: int, now: float) -> None:
        """Let [start, stop) wait, behind everything else."""
        self._waiting.append(_Waiting(start, stop, now))
        self.rows += stop - start

    def put_back(self, ranges: list[Range], since: float) -> None:
        """Let ranges wait again, before everything else."""
        self._waiting.extendleft(_Waiting(*span, since) for span in reversed(ranges))
        self.rows += sum(stop - start for start, stop in ranges)

    def isolate(self, row: int, since: float) -> None:
        """Let a row wait that may go out only alone, behind what is older."""
        self._suspects.append(_Waiting(row, row + 1, since))
        self.rows += 1

    def _is_suspect_next(self) -> bool:
        if not self._suspects or not self._waiting:
            return bool(self._suspects)
        return self._suspects[0].since < self._waiting[0].since

    def take(self, limit: int) -> list[Range]:
        """Remove the batch to predict next: up to `limit` of the oldest rows, merged."""
        if self._is_suspect_next():
            suspect = self._suspects.popleft()
            self.rows -= 1
            return [(suspect.start, suspect.stop)]
        taken: list[Range] = []
        while self._waiting and limit:
            first = self._waiting[0]
            stop = min(first.stop, first.start + limit)
            taken.append((first.start, stop))
            limit -= stop - first.start
            self.rows -= stop - first.start
            if stop == first.stop:
                self._waiting.popleft()
            else:
                first.start = stop
        return merge(taken, self._segment_rows) if len(taken) > 1 else taken

    def withdraw(self, start: int, stop: int) -> int:
        """Remove whatever of [start, stop) still waits; how many rows that was."""
        before = self.rows
        for waiting in (self._waiting, self._suspects):
            kept: list[_Waiting] = []
            touched = False
            for item in waiting:
                if item.start < stop and start < item.stop:
                    touched = True
                    parts = subtract([(item.start, item.stop)], start, stop)
                    kept += [_Waiting(*part, item.since) for part in parts]
                    left = sum(last - first for first, last in parts)
                    self.rows -= item.stop - item.start - left
                else:
                    kept.append(item)
            if touched:
                waiting.clear()
                waiting.extend(kept)
        return before - self.rows
