"""Reading a request's body from ASGI, within the limit.

Runs in the front-end. A body that is announced as too large is refused before any of it is read,
one that turns out to be as soon as it does; what has come of it counts against the memory for
bodies. Compressed bodies are inflated on the way, big ones in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget, Reservation
from server.errors import InvalidRequest, RequestTooLarge
from server.http_api.compression import Inflater, read_encoding

__all__ = ["LATE", "BodyReader", "Disconnected", "Receive", "linger", "read_length"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: An extension in the scope of a request that was ended since its body did not come in time.
LATE = "ensembled.late"

_MAX_LENGTH_DIGITS = 18
_STEPS_ON_LOOP = 2
_LINGER_S = 5.0


class Disconnected(Exception):
    """The client has gone; nobody is there to answer."""

    outcome = "disconnected"


class BodyReader:
    """Reads bodies.

    Args:
        max_bytes: of a body, as it comes and inflated.
        threads: where big ones are inflated.
        budget: what all bodies may hold together.
    """

    def __init__(
        self, max_bytes: int, threads: Executor, budget: MemoryBudget | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._threads = threads
        self._budget = MemoryBudget() if budget is None else budget

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | bytearray:
        """Read a whole body: in one piece as it comes, in several into one buffer.

        If it has `COUNTED_BYTES` or more, it holds them of the budget until it is released.

        Args:
            headers: of the request.
            receive: gives its messages.

        Raises:
            RequestTooLarge: if it is larger than the limit.
            QueueFull: if other bodies hold too much for it to come.
            UnsupportedMediaType: if its encoding is not one that we read.
            InvalidRequest: if it is not of its encoding.
            Disconnected: if the client goes before its end.
        """
        announced = read_length(headers.get(b"content-length"), "Content-Length")
        if announced is not None and announced >= COUNTED_BYTES:
            if announced > self._max_bytes:
                raise self._too_large()
            self._budget.check(announced)
        encoding = read_encoding(headers.get(b"content-encoding"))
        first, has_more = await self._read_chunk(receive, 0)
        if not has_more and not encoding and len(first) < COUNTED_BYTES:
            return first
        hold, length = Reservation(self._budget), 0
        try:
            if encoding:
                body: bytes | bytearray = await self._inflate(
                    Inflater(encoding, self._max_bytes), first, has_more, receive, hold
                )
            else:
                body = await self._gather(first, has_more, receive, hold)
            length = len(body)
        finally:
            hold.resize(length if length >= COUNTED_BYTES else 0)
        return body

    def release(self, body: bytes | bytearray) -> None:
        """Give back what a body that was read holds of the budget."""
        if len(body) >= COUNTED_BYTES:
            self._budget.release(len(body))

    async def _read_chunk(self, receive: Receive, before: int) -> tuple[bytes, bool]:
        """The next chunk, after as many bytes `before` it, and whether there are more to come."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk: bytes = message.get("body", b"")
        if before + len(chunk) > self._max_bytes:
            raise self._too_large()
        return chunk, message.get("more_body", False)

    async def _gather(
        self, first: bytes, has_more: bool, receive: Receive, hold: Reservation
    ) -> bytes | bytearray:
        hold.resize(len(first))
        if not has_more:
            return first
        buffer = bytearray(first)
        while has_more:
            chunk, has_more = await self._read_chunk(receive, len(buffer))
            hold.resize(len(buffer) + len(chunk))
            buffer += chunk
        return buffer

    async def _inflate(
        self, inflater: Inflater, chunk: bytes, has_more: bool, receive: Receive, hold: Reservation
    ) -> bytearray:
        received = len(chunk)
        while True:
            inflater.feed(chunk)
            hold.resize(inflater.held_bytes)
            if not inflater.work(_STEPS_ON_LOOP):
                await asyncio.get_running_loop().run_in_executor(self._threads, inflater.work)
            hold.resize(inflater.held_bytes)
            if not has_more:
                return inflater.finish()
            chunk, has_more = await self._read_chunk(receive, received)
            received += len(chunk)

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"the body is larger than the limit of {self._max_bytes} bytes")


def read_length(value: bytes | None, header: str) -> int | None:
    """Read a header that holds a length.

    Raises:
        InvalidRequest: if it does not.
    """
    if value is None:
        return None
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise InvalidRequest(f"{header} is not a length")
    return int(value)


async def linger(receive: Receive) -> None:
    """Read and forget what a refused client is still sending, for a while.

    Many clients read no answer before they have sent everything; a connection that is closed
    meanwhile is all they would see.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            message = await receive()
            while message["type"] != "http.disconnect" and message.get("more_body", False):
                message = await receive()
