"""Who takes the answers of a call: how much of them is there and was not sent yet.

Runs in the front-end's event loop, between the calls and what all unread answers may hold.
"""

from __future__ import annotations

from collections.abc import Callable

from server.inference.unread_answers import UnreadAnswers

__all__ = ["Taker"]


class Taker:
    """The client of one call.

    Args:
        unread: what all answers that clients do not read may hold together.
        end: ends its connection.
    """

    __slots__ = ("_answers", "_end", "_has_gone", "_nbytes", "_unread")

    def __init__(self, unread: UnreadAnswers, end: Callable[[], None]) -> None:
        self._unread = unread
        self._end = end
        self._nbytes = self._answers = 0
        self._has_gone = False

    def hold(self, nbytes: int) -> None:
        """An answer of so many bytes is there."""
        self._nbytes += nbytes
        self._answers += 1
        if not self._has_gone:
            self._unread.hold(self)

    def take(self, nbytes: int) -> None:
        """An answer of so many bytes was sent."""
        self._nbytes -= nbytes
        self._answers -= 1
        if not self._answers:
            self._unread.let_go(self)

    def go(self, _: object = None) -> None:
        """The call is over."""
        self._has_gone = True
        self._unread.let_go(self)

    def unsent_bytes(self) -> int:
        """How many bytes are there."""
        return self._nbytes

    def has_several(self) -> bool:
        """Whether there are some answers."""
        return self._answers > 1

    def end_unread(self) -> None:
        """End the connection: others need the memory."""
        self._has_gone = True
        self._end()
