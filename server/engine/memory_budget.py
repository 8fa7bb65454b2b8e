"""The memory that requests may take together: their bodies, their images, or their answers.

Used in the front-end by every protocol. A request holds as much as has come of its body, not what
it has announced, so a client that only promises takes nothing from the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import QueueFull

__all__ = ["COUNTED_BYTES", "Hold", "MemoryBudget"]

#: A body that is smaller, and comes in one piece, is not counted, nor is an answer: as many of them
#: as may wait for the arena take little memory, and most requests are of this kind.
COUNTED_BYTES = 1 << 16


class MemoryBudget:
    """A number of bytes.

    Args:
        limit_bytes: that may be held at once.

    Attributes:
        held_bytes: that are.
    """

    def __init__(self, limit_bytes: int = sys.maxsize) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def check(self, nbytes: int) -> None:
        """Look whether so many more may be held now.

        Raises:
            QueueFull: if not.
        """
        if self.held_bytes + nbytes > self.limit_bytes:
            raise QueueFull(
                f"the requests that are received or wait already hold {self.held_bytes} bytes "
                f"of {self.limit_bytes}, and this one would need {nbytes} more",
                reason="memory",
            )

    def take(self, nbytes: int) -> None:
        """Hold so many more.

        Raises:
            QueueFull: if these are too many.
        """
        self.check(nbytes)
        self.hold(nbytes)

    def hold(self, nbytes: int) -> None:
        """Hold so many more, even if these are too many."""
        self.held_bytes += nbytes

    def give(self, nbytes: int) -> None:
        """Give so many back."""
        self.held_bytes -= nbytes
        assert self.held_bytes >= 0

    @contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """Hold as much as a body in one piece takes, for the length of a block.

        Raises:
            QueueFull: if that is too much.
        """
        counted = nbytes if nbytes >= COUNTED_BYTES else 0
        self.take(counted)
        try:
            yield
        finally:
            self.give(counted)


class Hold:
    """What one request holds of a budget while it comes in."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._nbytes = 0

    def hold(self, nbytes: int) -> None:
        """Hold so many more, even if these are too many."""
        self._budget.hold(nbytes)
        self._nbytes += nbytes

    def settle(self, nbytes: int) -> None:
        """Hold so many bytes altogether from now on.

        Raises:
            QueueFull: if the budget has not so many left; what was held stays held.
        """
        more = nbytes - self._nbytes
        if more > 0:
            self._budget.take(more)
        else:
            self._budget.give(-more)
        self._nbytes = nbytes
