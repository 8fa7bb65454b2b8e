"""The memory that answers may take which their clients do not read.

Runs in the front-end, beside the connections; pure. A connection comes in when more of its answers
waits to be sent than a socket takes at once, and goes when that has been read. If all of them hold
too much, those are ended that hold more than an equal part, the ones that have waited longest
first: whoever has a small answer, or was quick so far, does not pay for others.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

__all__ = ["Reader", "UnreadAnswers"]


class Reader(Protocol):
    """A connection."""

    def unsent_bytes(self) -> int:
        """How many bytes its client has not taken yet."""
        ...


R = TypeVar("R", bound=Reader)


class UnreadAnswers(Generic[R]):
    """A number of bytes, and who holds them.

    Args:
        limit_bytes: that may be held at once; a connection that is alone may hold more.

    Attributes:
        held_bytes: that are, no less.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[R, int] = {}
        self.held_bytes = 0

    def hold(self, reader: R) -> list[R]:
        """Note that a connection has more to send than its client takes.

        Returns:
            The connections that are to be ended; they are let go of.
        """
        self._note(reader)
        if self.held_bytes <= self._limit_bytes:
            return []
        for other in self._held:  # something may have been read meanwhile
            self._note(other)
        ended: list[R] = []
        while self.held_bytes > self._limit_bytes and len(self._held) > 1:
            part = self.held_bytes / len(self._held)
            longest = next(one for one, nbytes in self._held.items() if nbytes >= part)
            self.let_go(longest)
            ended.append(longest)
        return ended

    def let_go(self, reader: R) -> None:
        """Note that a connection has sent what it had, or has ended; else nothing happens."""
        self.held_bytes -= self._held.pop(reader, 0)

    def _note(self, reader: R) -> None:
        nbytes = reader.unsent_bytes()
        self.held_bytes += nbytes - self._held.get(reader, 0)
        self._held[reader] = nbytes
