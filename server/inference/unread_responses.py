"""The memory of responses that their clients do not read.

Runs in the front-end, under every protocol; pure. A reader is a connection or call with responses
that are not sent yet. If all of them together exceed the limit, readers with more than an equal
share are ended, those that began to wait first: clients with small responses, or that read quickly,
do not pay for others.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Reader", "UnreadResponses"]


class Reader(Protocol):
    """A connection or call with unsent responses."""

    def unsent_bytes(self) -> int:
        """How many bytes are not sent yet."""
        ...

    def has_several(self) -> bool:
        """Whether they are more than one response."""
        ...

    def end_unread(self) -> None:
        """Drop the responses and the connection; the reader is no longer counted."""
        ...


class UnreadResponses:
    """Counts the unsent bytes of all readers, and ends some above the limit.

    `limit_bytes` is for all together; a single reader may hold one larger response. `held_bytes` is
    an upper bound of the unsent bytes.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[Reader, int] = {}
        self.held_bytes = 0

    def hold(self, reader: Reader) -> None:
        """Count the unsent bytes of a reader; above the limit, end some readers."""
        self._count(reader)
        if self.held_bytes <= self._limit_bytes:
            return
        for other in self._held:  # some may have been sent meanwhile
            self._count(other)
        while self.held_bytes > self._limit_bytes:
            share = self.held_bytes / len(self._held)
            longest = next(one for one, nbytes in self._held.items() if nbytes >= share)
            if len(self._held) == 1 and not longest.has_several():
                return
            self.let_go(longest)
            longest.end_unread()

    def let_go(self, reader: Reader) -> None:
        """Stop counting a reader that has sent everything, or has gone."""
        self.held_bytes -= self._held.pop(reader, 0)

    def _count(self, reader: Reader) -> None:
        nbytes = reader.unsent_bytes()
        self.held_bytes += nbytes - self._held.get(reader, 0)
        self._held[reader] = nbytes
