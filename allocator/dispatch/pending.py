"""The rows that wait for one member: ranges by flow, each in the order of its rows' numbers.

Pure; part of the dispatch policy. Ranges come in by request and go out by batch: contiguous ones
are merged when they are popped, so that a batch is one zero-copy view wherever possible. A batch
may hold rows of several flows: it is filled from the flow that is served next, then from the one
after it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from allocator.dispatch.flows import Flow, rank_of

__all__ = ["Batch", "PendingRows", "Range", "Rank", "merge", "subtract"]

#: Rows [start, stop).
Range = tuple[int, int]

#: What members are ordered by: priority, virtual time, since when the oldest row has waited.
Rank = tuple[int, float, float]

#: How many popped ranges a queue keeps before it compacts its list.
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
    """The ranges without the rows of [start, stop)."""
    rest: list[Range] = []
    for first, last in ranges:
        if first < min(last, start):
            rest.append((first, min(last, start)))
        if max(first, stop) < last:
            rest.append((max(first, stop), last))
    return rest


class Batch(NamedTuple):
    """Rows that were popped: ranges, merged, in the order of popping; and each flow's ranges."""

    ranges: list[Range]
    shares: list[tuple[Flow, list[Range]]]


@dataclass(slots=True)
class _PendingRange:
    start: int
    stop: int
    since: float


class _Suspect(NamedTuple):
    row: int
    since: float
    flow: Flow


_start = attrgetter("start")


class _FlowQueue:
    """The ranges of one flow in the order of their rows' numbers, which is that of their claims."""

    __slots__ = ("_head", "_items", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self._items: list[_PendingRange] = []
        self._head = 0

    @property
    def since(self) -> float:
        """Since when the first row has waited. Only if there are rows."""
        return self._items[self._head].since

    @property
    def first(self) -> tuple[float, int]:
        """Since when the first row has waited, and its number. Only if there are rows."""
        first = self._items[self._head]
        return first.since, first.start

    def add(self, start: int, stop: int, since: float) -> None:
        """Insert [start, stop)."""
        items, item = self._items, _PendingRange(start, stop, since)
        if not items or items[-1].start < start:
            items.append(item)
        else:
            items.insert(bisect_left(items, start, self._head, key=_start), item)
        self.rows += stop - start

    def pop(self, limit: int) -> list[Range]:
        """Remove the first rows, `limit` at most."""
        popped: list[Range] = []
        items, head = self._items, self._head
        while limit and head < len(items):
            first = items[head]
            stop = min(first.stop, first.start + limit)
            popped.append((first.start, stop))
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
        return popped

    def withdraw(self, start: int, stop: int) -> int:
        """Remove the rows of [start, stop) that are here; returns how many there were."""
        items = self._items
        first = bisect_left(items, start, self._head, key=_start)
        if first > self._head and items[first - 1].stop > start:
            first -= 1
        last = bisect_left(items, stop, first, key=_start)
        touched = items[first:last]
        if not touched:
            return 0
        kept = [
            _PendingRange(*part, item.since)
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


class PendingRows:
    """First come, first served within a flow; flows are served in the order of their rank.

    Rows that come back from a dead worker are older than what else waits, so they go first again.
    A suspect row goes alone, when its age says so.
    """

    def __init__(self, segment_rows: int) -> None:
        self.rows = 0
        self._segment_rows = segment_rows
        self._queues: dict[Flow, _FlowQueue] = {}
        self._suspects: deque[_Suspect] = deque()

    @property
    def since(self) -> float:
        """Since when the oldest row has waited. Only if there are rows."""
        ages = [queue.since for queue in self._queues.values() if queue.rows]
        return min([*ages, *(suspect.since for suspect in self._suspects)])

    @property
    def rank(self) -> Rank:
        """The rank of the batch that would be popped next. Only if there are rows."""
        flow = self._next_flow()
        if self._is_suspect_next(flow):
            suspect = self._suspects[0]
            return *rank_of(suspect.flow), suspect.since
        assert flow is not None
        return *rank_of(flow), self._queues[flow].since

    def flows(self) -> Iterator[tuple[Flow, int]]:
        """The flows that have rows here, with their number; suspects are not counted."""
        for flow, queue in self._queues.items():
            if queue.rows:
                yield flow, queue.rows

    def append(self, start: int, stop: int, since: float, flow: Flow) -> None:
        """Add rows [start, stop) of a flow, before all of its rows with a higher number."""
        queue = self._queues.get(flow)
        if queue is None:
            queue = self._queues[flow] = _FlowQueue()
        queue.add(start, stop, since)
        flow.add_pending(stop - start)
        self.rows += stop - start

    def isolate(self, row: int, since: float, flow: Flow) -> None:
        """Add a row that has to be a batch by itself, behind older rows."""
        self._suspects.append(_Suspect(row, since, flow))
        flow.add_pending(1)
        self.rows += 1

    def pop_batch(self, limit: int) -> Batch:
        """Remove the batch to predict next: `limit` rows at most."""
        flow = self._next_flow()
        if self._is_suspect_next(flow):
            suspect = self._suspects.popleft()
            suspect.flow.remove_pending(1)
            self.rows -= 1
            ranges = [(suspect.row, suspect.row + 1)]
            return Batch(ranges, [(suspect.flow, ranges)])
        shares: list[tuple[Flow, list[Range]]] = []
        while limit and flow is not None:
            queue = self._queues[flow]
            before = queue.rows
            shares.append((flow, queue.pop(limit)))
            popped = before - queue.rows
            flow.remove_pending(popped)
            limit -= popped
            self.rows -= popped
            flow = self._next_flow() if limit and self.rows else None
        ranges = [span for _, part in shares for span in part]
        return Batch(merge(ranges, self._segment_rows) if len(ranges) > 1 else ranges, shares)

    def withdraw(self, start: int, stop: int) -> int:
        """Remove the rows of [start, stop) that still wait; returns how many there were."""
        if not self.rows:
            return 0
        gone = 0
        for flow, queue in self._queues.items():
            if queue.rows and (count := queue.withdraw(start, stop)):
                flow.remove_pending(count)
                gone += count
        for suspect in [item for item in self._suspects if start <= item.row < stop]:
            self._suspects.remove(suspect)
            suspect.flow.remove_pending(1)
            gone += 1
        self.rows -= gone
        return gone

    def _next_flow(self) -> Flow | None:
        """The flow to serve next, the older one among equals; None if no queue has rows."""
        queues = self._queues
        found: Flow | None = None
        for flow, queue in queues.items():
            if queue.rows and (
                found is None
                or (rank_of(flow), queue.first) < (rank_of(found), queues[found].first)
            ):
                found = flow
        return found

    def _is_suspect_next(self, flow: Flow | None) -> bool:
        """Whether a suspect goes before the flow to serve next."""
        if not self._suspects:
            return False
        return flow is None or self._suspects[0].since < self._queues[flow].since
