"""A connection carries one request at a time to the server. Runs in each load process.

Over HTTP it is a TCP connection; over gRPC a slot for a call on a shared channel. In: encoded
requests. Out: a `RequestResult` by callback; a task per request would cost as much as all the rest.

Of every response its status is checked, and that it is complete and names its outputs. Decoding all
of them would make the tester the bottleneck, so only the first response of a connection (for each
number of rows) is decoded and checked as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ensembled_client.wire import Array

__all__ = [
    "LoadConnection",
    "NewConnection",
    "OnResult",
    "RequestResult",
    "connect_error",
    "error_kind",
    "find_fault",
]

_MAX_KIND_CHARACTERS = 120
_NUMBERS = re.compile(r"\d+(\.\d+)?")


class RequestResult(NamedTuple):
    """How a request ended.

    Attributes:
        error: its kind; None after a good response.
        is_degraded: whether a response rests on fewer members than the ensemble has.
    """

    error: str | None
    is_degraded: bool = False


@dataclass(eq=False, slots=True, weakref_slot=True)
class LoadConnection(ABC):
    """Carries one request at a time.

    Attributes:
        on_result: called when a request has ended and the connection is free.
        intended_ns: when the current request should have been sent.
        sent_ns: when it was sent.
        rows: of the current request.
        is_busy: whether there is one.
    """

    on_result: OnResult
    intended_ns: int = field(default=0, init=False)
    sent_ns: int = field(default=0, init=False)
    rows: int = field(default=0, init=False)
    is_busy: bool = field(default=False, init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)

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
        """Send a request, and connect first if need be; `on_result` is called later, once.

        The connection is not busy, and the caller has set the attributes.
        """

    @abstractmethod
    def _abort(self) -> None:
        """Drop at once what no other connection shares."""

    def cancel(self, error: str) -> None:
        """Stop waiting for the response: `on_result` is called with this error."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._abort()
        if self.is_busy:
            self._finish(RequestResult(error))

    async def close(self) -> None:
        """Disconnect; `on_result` is not called any more."""
        self.is_busy = False
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._abort()

    def _finish(self, result: RequestResult) -> None:
        self.is_busy = False
        self.on_result(self, result)


OnResult = Callable[[LoadConnection, RequestResult], None]
NewConnection = Callable[[OnResult], LoadConnection]


def connect_error(error: OSError) -> str:
    """Return the kind of error of a failure to connect."""
    return f"connect: {error.strerror or str(error) or type(error).__name__}"


def error_kind(status: object, message: str) -> str:
    """Return the kind of an error: messages that differ in numbers alone are one kind."""
    text = _NUMBERS.sub("N", " ".join(message.split()))
    if len(text) > _MAX_KIND_CHARACTERS:
        text = text[:_MAX_KIND_CHARACTERS] + "…"
    return f"{status}: {text}" if text else str(status)


def find_fault(outputs: Mapping[str, Array], rows: int) -> str | None:
    """Return what is wrong with a decoded response to a request of so many rows; None: nothing."""
    if not outputs:
        return "it has no output"
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            return f"output {name!r} has the shape {list(array.shape)}, the request {rows} rows"
    return None
