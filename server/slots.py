"""Who gets which slots of an arena: claims and frees, by segments.

Runs in the front-end; pure. Rows are claimed at the head of the open segment. A segment returns to
the free list when all its claimed rows are free, in any order, so that one straggler holds one
segment and not the server. The segment freed last is opened next: its memory is still warm.
"""

from __future__ import annotations

from server.batching import Range

__all__ = ["SlotAllocator"]


class SlotAllocator:
    """Gives out row numbers, each of which names generation, segment and offset, and none twice.

    Args:
        segments: how many segments.
        segment_rows: rows of one.
        generation: the first generation to use, at least 1.
    """

    def __init__(self, segments: int, segment_rows: int, generation: int = 1) -> None:
        self._size = segment_rows
        self._capacity = segments * segment_rows
        self._generation = generation
        self._free = list(range(segments - 1, -1, -1))
        self._held = [0] * segments
        self._open = -1
        self._head = segment_rows
        self._base = 0

    def claim(self, wanted: int) -> Range | None:
        """Claim up to `wanted` adjacent rows; None if the arena is full."""
        if self._head == self._size and not self._open_next():
            return None
        start = self._base + self._head
        count = min(wanted, self._size - self._head)
        self._head += count
        self._held[self._open] += count
        return start, start + count

    def free(self, start: int, stop: int) -> None:
        """Give rows back that were claimed."""
        segment = start % self._capacity // self._size
        self._held[segment] -= stop - start
        assert self._held[segment] >= 0
        if self._held[segment] == 0:
            if segment != self._open:
                self._free.append(segment)
            elif self._head == self._size:
                self._open = -1
                self._free.append(segment)

    @property
    def held(self) -> int:
        """Slots that are claimed and not free again."""
        return sum(self._held)

    def _open_next(self) -> bool:
        if not self._free:
            return False
        self._open = self._free.pop()
        self._head = 0
        self._base = self._generation * self._capacity + self._open * self._size
        self._generation += 1
        return True
