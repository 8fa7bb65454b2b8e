"""The memory that requests may use together: for their bodies, their images, or their answers.

Used in the front-end by every protocol. A request is charged for as much of its body as has
arrived, not for what it has announced, so announcing a body takes nothing from others.
"""

from __future__ import annotations

import sys

from server.errors import QueueFull

__all__ = ["COUNTED_BYTES", "MemoryBudget", "Reservation"]

#: A body that is smaller, and arrives in one piece, is not counted, nor is an answer: as many of
#: them as may wait for the arena take little memory, and most requests are of this kind.
COUNTED_BYTES = 1 << 16


class MemoryBudget:
    """A number of bytes, of which `held_bytes` are reserved."""

    def __init__(self, limit_bytes: int = sys.maxsize) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def check(self, nbytes: int) -> None:
        """Raise `QueueFull` if so many more can't be reserved now."""
        if self.held_bytes + nbytes > self.limit_bytes:
            raise QueueFull(
                f"the requests that are received or wait already hold {self.held_bytes} bytes "
                f"of {self.limit_bytes}, and this one would need {nbytes} more",
                reason="memory",
            )

    def reserve(self, nbytes: int) -> None:
        """Reserve so many more; raises `QueueFull` if these are too many."""
        self.check(nbytes)
        self.charge(nbytes)

    def charge(self, nbytes: int) -> None:
        """Reserve so many more, even if these are too many."""
        self.held_bytes += nbytes

    def release(self, nbytes: int) -> None:
        """Give so many back."""
        self.held_bytes -= nbytes
        assert self.held_bytes >= 0


class Reservation:
    """What one request has reserved of a budget while it arrives."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._nbytes = 0

    def charge(self, nbytes: int) -> None:
        """Reserve so many more, even if these are too many."""
        self._budget.charge(nbytes)
        self._nbytes += nbytes

    def resize(self, nbytes: int) -> None:
        """Hold so many bytes altogether from now on.

        Raises `QueueFull` if the budget has not so many left; what was reserved stays reserved.
        """
        more = nbytes - self._nbytes
        if more > 0:
            self._budget.reserve(more)
        else:
            self._budget.release(-more)
        self._nbytes = nbytes
