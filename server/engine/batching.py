"""The rows that wait for one member: ranges by flow, each in the order of its rows' numbers.

Runs in the front-end; pure. Ranges come in by request and go out by batch: contiguous ones are
merged when they are taken, so that a batch is one zero-copy view wherever possible. A batch may
hold rows of several flows: it is filled from the flow whose turn it is, then from the next.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from server.engine.flows import Flow, turn_of

__all__ = ["Batch", "PendingRanges", "Range", "Turn", "merge", "subtract"]

Range = tuple[int, int]

#: Where a member stands in line: priority, virtual time, when the oldest row came.
Turn = tuple[int, float, float]

#: So many ranges that were taken are kept before the list is moved up.
_SLACK = 64


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


class Batch(NamedTuple):
    """Rows that were taken.

    Attributes:
        ranges: merged, in the order in which they were taken.
        shares: the flows that they belong to, each with its ranges.
    """

    ranges: list[Range]
    shares: list[tuple[Flow, list[Range]]]


@dataclass(slots=True)
class _Waiting:
    start: int
    stop: int
    since: float


class _Suspect(NamedTuple):
    row: int
    since: float
    flow: Flow


_start = attrgetter("start")


class _Line:
    """Ranges in the order of their rows' numbers, which is that of their claims.

    Attributes:
        rows: how many rows wait.
    """

    __slots__ = ("_head", "_items", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self._items: list[_Waiting] = []
        self._head = 0

    @property
    def since(self) -> float:
        """When the first of them came. Only if there are rows."""
        return self._items[self._head].since

    @property
    def first(self) -> tuple[float, int]:
        """When the first of them came, and its number. Only if there are rows."""
        first = self._items[self._head]
        return first.since, first.start

    def add(self, start: int, stop: int, since: float) -> None:
        """Let [start, stop) wait."""
        items, item = self._items, _Waiting(start, stop, since)
        if not items or items[-1].start < start:
            items.append(item)
        else:
            items.insert(bisect_left(items, start, self._head, key=_start), item)
        self.rows += stop - start

    def take(self, limit: int) -> list[Range]:
        """Remove up to `limit` rows, the first ones."""
        taken: list[Range] = []
        items, head = self._items, self._head
        while limit and head < len(items):
            first = items[head]
            stop = min(first.stop, first.start + limit)
            taken.append((first.start, stop))
            limit -= stop - first.start
            self.rows -= stop - first.start
            if stop == first.stop:
                head += 1
            else:
                first.start = stop
        if head == len(items):
            items.clear()
            head = 0
        elif head > _SLACK and head > len(items) // 2:
            del items[:head]
            head = 0
        self._head = head
        return taken

    def withdraw(self, start: int, stop: int) -> int:
        """Remove whatever of [start, stop) is there; how many rows that was."""
        items = self._items
        first = bisect_left(items, start, self._head, key=_start)
        if first > self._head and items[first - 1].stop > start:
            first -= 1
        last = bisect_left(items, stop, first, key=_start)
        touched = items[first:last]
        if not touched:
            return 0
        kept = [
            _Waiting(*part, item.since)
            for item in touched
            for part in subtract([(item.start, item.stop)], start, stop)
        ]
        items[first:last] = kept
        gone = sum(i.stop - i.start for i in touched) - sum(i.stop - i.start for i in kept)
        self.rows -= gone
        if self._head == len(items):
            items.clear()
            self._head = 0
        return gone


class PendingRanges:
    """First come, first served within a flow; the flow whose turn it is goes first.

    What a dead worker held is older than what else waits, so it comes first again. A suspect row
    goes alone, when its age says so.

    Attributes:
        rows: how many rows wait.
    """

    def __init__(self, segment_rows: int) -> None:
        self.rows = 0
        self._segment_rows = segment_rows
        self._lines: dict[Flow, _Line] = {}
        self._suspects: deque[_Suspect] = deque()

    @property
    def since(self) -> float:
        """When the oldest waiting row came, on the clock of `append`. Only if there are rows."""
        ages = [line.since for line in self._lines.values() if line.rows]
        return min([*ages, *(suspect.since for suspect in self._suspects)])

    @property
    def turn(self) -> Turn:
        """Where the batch that would be taken next stands in line. Only if there are rows."""
        flow = self._next()
        if self._is_suspect_next(flow):
            suspect = self._suspects[0]
            return *turn_of(suspect.flow), suspect.since
        assert flow is not None
        return *turn_of(flow), self._lines[flow].since

    def flows(self) -> Iterator[tuple[Flow, int]]:
        """The flows that have rows here, with their number; suspects are not counted."""
        for flow, line in self._lines.items():
            if line.rows:
                yield flow, line.rows

    def append(self, start: int, stop: int, since: float, flow: Flow) -> None:
        """Let [start, stop) of a flow wait, before all rows with a higher number."""
        line = self._lines.get(flow)
        if line is None:
            line = self._lines[flow] = _Line()
        line.add(start, stop, since)
        flow.wait(stop - start)
        self.rows += stop - start

    def isolate(self, row: int, since: float, flow: Flow) -> None:
        """Let a row wait that may go out only alone, behind what is older."""
        self._suspects.append(_Suspect(row, since, flow))
        flow.wait(1)
        self.rows += 1

    def take(self, limit: int) -> Batch:
        """Remove the batch to predict next: up to `limit` rows."""
        flow = self._next()
        if self._is_suspect_next(flow):
            suspect = self._suspects.popleft()
            suspect.flow.leave(1)
            self.rows -= 1
            ranges = [(suspect.row, suspect.row + 1)]
            return Batch(ranges, [(suspect.flow, ranges)])
        shares: list[tuple[Flow, list[Range]]] = []
        while limit and flow is not None:
            line = self._lines[flow]
            before = line.rows
            shares.append((flow, line.take(limit)))
            taken = before - line.rows
            flow.leave(taken)
            limit -= taken
            self.rows -= taken
            flow = self._next() if limit and self.rows else None
        ranges = [span for _, part in shares for span in part]
        return Batch(merge(ranges, self._segment_rows) if len(ranges) > 1 else ranges, shares)

    def withdraw(self, start: int, stop: int) -> int:
        """Remove whatever of [start, stop) still waits; how many rows that was."""
        if not self.rows:
            return 0
        gone = 0
        for flow, line in self._lines.items():
            if line.rows and (count := line.withdraw(start, stop)):
                flow.leave(count)
                gone += count
        for suspect in [item for item in self._suspects if start <= item.row < stop]:
            self._suspects.remove(suspect)
            suspect.flow.leave(1)
            gone += 1
        self.rows -= gone
        return gone

    def _next(self) -> Flow | None:
        """The flow whose turn it is, among equals the older; None if none has rows in line."""
        lines = self._lines
        found: Flow | None = None
        for flow, line in lines.items():
            if line.rows and (
                found is None or (turn_of(flow), line.first) < (turn_of(found), lines[found].first)
            ):
                found = flow
        return found

    def _is_suspect_next(self, flow: Flow | None) -> bool:
        """Whether a suspect goes before the flow whose turn it is."""
        if not self._suspects:
            return False
        return flow is None or self._suspects[0].since < self._lines[flow].since
