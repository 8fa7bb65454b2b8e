"""The rows of a simulation run: whose they are, and how many members are still to come.

Used by the engine. The cost of a finished job must not grow with the batch: rows are absolute,
ever-growing numbers, ranges of them stay together, and the members still to come of each row are
counted in one byte string that is changed a range at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from allocator.simulation.jobs import Range

__all__ = ["Rows"]

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
