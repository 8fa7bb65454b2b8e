"""Allocation of an arena's slots: claims and frees, by segments, shared between flows.

Runs in the front-end; pure (the clock is an argument). Each flow claims rows at the head of a
segment of its own. A segment returns to the free list when all its claimed rows are free, in any
order, so that one straggler holds one segment and not the server, and rows that wait for a slow
member, or for a worker that is being restarted, hold segments of their own flow. The segment freed
last is opened next: its memory is still warm.

A flow may own every segment while it is alone. With others, half of the arena is reserved in equal
parts, one for each flow that has claimed in the last minute: what is left of others' parts is not
given to a flow that has used up its own. Source: "sharing with a minimum allocation"
in Kamoun and Kleinrock, "Analysis of Shared Finite Storage in a Computer Network Node Environment
Under General Traffic Conditions" (IEEE Transactions on Communications, 1980).
"""

from __future__ import annotations

import math

from allocator.dispatch.flows import Flow
from allocator.dispatch.pending import Range

__all__ = ["SlotAllocator"]

#: A flow that has not claimed for so long has no part reserved.
_PRESENT_S = 60.0
#: Of fewer segments none is reserved: a device is kept busy by two.
_LEAST_SEGMENTS = 3


class _Lane:
    """The segments of one flow.

    `segment` is the open one, -1 if none is, `head` its first row that is not claimed, and `base`
    the number of its first row. `owned` counts the open one as well.
    """

    __slots__ = ("base", "claimed_at", "head", "owned", "segment")

    def __init__(self, head: int) -> None:
        self.segment = -1
        self.head = head
        self.base = 0
        self.owned = 0
        self.claimed_at = 0.0


class SlotAllocator:
    """Allocates row numbers: each encodes generation, segment and offset, and is used once.

    The first generation is 1 or more.
    """

    def __init__(self, segments: int, segment_rows: int, generation: int = 1) -> None:
        self._size = segment_rows
        self._segments = segments
        self._capacity = segments * segment_rows
        self._generation = generation
        self._free = list(range(segments - 1, -1, -1))
        self._held = [0] * segments
        self._lanes: dict[Flow, _Lane] = {}
        self._owners: list[_Lane] = [_Lane(segment_rows)] * segments

    def claim(self, wanted: int, flow: Flow, now: float) -> Range | None:
        """Claim up to `wanted` adjacent rows for a flow.

        None if the arena is full, or the flow has its share of it.
        """
        lane = self._lanes.get(flow)
        if lane is None:
            lane = self._add_lane(flow)
        lane.claimed_at = now
        if lane.head == self._size:
            if self._may_open(lane):
                self._open_next(lane)
            elif lane.owned or (lane := self._shared_lane()) is None:
                return None
        start = lane.base + lane.head
        count = min(wanted, self._size - lane.head)
        lane.head += count
        self._held[lane.segment] += count
        return start, start + count

    def free(self, start: int, stop: int) -> None:
        """Free claimed rows."""
        segment = start % self._capacity // self._size
        self._held[segment] -= stop - start
        assert self._held[segment] >= 0
        if self._held[segment] == 0:
            lane = self._owners[segment]
            if segment != lane.segment or lane.head == self._size or len(self._lanes) > 1:
                self._release(segment)

    @property
    def held(self) -> int:
        """How many slots are claimed."""
        return sum(self._held)

    def _add_lane(self, flow: Flow) -> _Lane:
        """Make a lane; from the second on, open segments without rows are released."""
        for lane in self._lanes.values():
            if lane.segment >= 0 and self._held[lane.segment] == 0:
                self._release(lane.segment)
        lane = self._lanes[flow] = _Lane(self._size)
        return lane

    def _release(self, segment: int) -> None:
        lane = self._owners[segment]
        lane.owned -= 1
        if lane.segment == segment:
            lane.segment, lane.head = -1, self._size
        self._free.append(segment)

    def _may_open(self, lane: _Lane) -> bool:
        """Whether a flow may have one more segment."""
        if not self._free or not lane.owned:
            return bool(self._free)
        since = lane.claimed_at - _PRESENT_S
        others = [
            other.owned
            for other in self._lanes.values()
            if other is not lane and (other.owned or other.claimed_at > since)
        ]
        if not others or self._segments < _LEAST_SEGMENTS:
            return True
        part = self._segments / (2 * (len(others) + 1))
        if lane.owned + 1 <= part:
            return True
        reserved = sum([part - owned for owned in others if owned < part])
        return len(self._free) > math.ceil(reserved)

    def _open_next(self, lane: _Lane) -> None:
        segment = lane.segment = self._free.pop()
        self._owners[segment] = lane
        lane.owned += 1
        lane.head = 0
        lane.base = self._generation * self._capacity + segment * self._size
        self._generation += 1

    def _shared_lane(self) -> _Lane | None:
        """The newest open segment that a flow without one may use, as none is free."""
        lanes = [lane for lane in self._lanes.values() if lane.head < self._size]
        return max(lanes, key=lambda lane: lane.base, default=None)
