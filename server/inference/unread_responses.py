"""The memory that answers may take which their clients do not read.

Used in the front-end by every protocol; pure. A reader is a connection, or a call, with more to
send than its client takes. If all of them hold too much, those are ended that hold more than an
equal part, the ones that have waited longest first: whoever has a small answer, or was quick so
far, does not pay for others.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Reader", "UnreadResponses"]


class Reader(Protocol):
    """Somebody who is to read answers."""

    def unsent_bytes(self) -> int:
        """How many bytes it has not taken yet."""
        ...

    def has_several(self) -> bool:
        """Whether that is more than one answer."""
        ...

    def end_unread(self) -> None:
        """Let go of them, and of the connection; the reader is let go of already."""
        ...


class UnreadResponses:
    """A number of bytes, and who holds them.

    Args:
        limit_bytes: that may be held at once; a reader that is alone may hold one answer that is
            larger.

    Attributes:
        held_bytes: that are, no less.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[Reader, int] = {}
        self.held_bytes = 0

    def hold(self, reader: Reader) -> None:
        """Note how much a reader has not taken yet; if that is too much, end some."""
        self._note(reader)
        if self.held_bytes <= self._limit_bytes:
            return
        for other in self._held:  # something may have been read meanwhile
            self._note(other)
        while self.held_bytes > self._limit_bytes:
            part = self.held_bytes / len(self._held)
            longest = next(one for one, nbytes in self._held.items() if nbytes >= part)
            if len(self._held) == 1 and not longest.has_several():
                return
            self.let_go(longest)
            longest.end_unread()

    def let_go(self, reader: Reader) -> None:
        """Note that a reader has taken all, or has gone; else nothing happens."""
        self.held_bytes -= self._held.pop(reader, 0)

    def _note(self, reader: Reader) -> None:
        nbytes = reader.unsent_bytes()
        self.held_bytes += nbytes - self._held.get(reader, 0)
        self._held[reader] = nbytes
