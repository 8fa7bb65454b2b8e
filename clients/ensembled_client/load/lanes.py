"""A lane carries one request at a time to the server. Runs in each load process.

A lane over HTTP is a connection; over gRPC it is a place for a call on a shared channel. Answers
come by callback, not by futures: a task per request would cost as much as the rest together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from ensembled_client.load.answers import Verdict

__all__ = ["Lane", "LaneMaker", "OnEnd"]


class Lane(ABC):
    """One place for a request in flight.

    Attributes:
        intended_ns: when the request in flight should have been sent.
        sent_ns: when it was.
        rows: of it.
        is_busy: whether there is one.
    """

    __slots__ = ("__weakref__", "_on_end", "intended_ns", "is_busy", "rows", "sent_ns")

    def __init__(self, on_end: OnEnd) -> None:
        self._on_end = on_end
        self.intended_ns = 0
        self.sent_ns = 0
        self.rows = 0
        self.is_busy = False

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the next request needs no new connection."""

    @abstractmethod
    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: if that fails.
        """

    @abstractmethod
    def send(self, request: bytes) -> None:
        """Send a request, connecting first if need be; `on_end` is called later, once.

        Only when the lane is not busy; the caller has set the attributes.
        """

    @abstractmethod
    def give_up(self, error: str) -> None:
        """Stop waiting for the answer: `on_end` is called with this kind of error."""

    @abstractmethod
    async def close(self) -> None:
        """Close what is open; no callback comes any more."""

    def _end(self, verdict: Verdict) -> None:
        self.is_busy = False
        self._on_end(self, verdict)


#: Called when a request has ended; the lane is free then.
OnEnd = Callable[[Lane, Verdict], None]
LaneMaker = Callable[[OnEnd], Lane]
