"""Reading a request's body from ASGI, within the limit.

Runs in the front-end. A body that is announced as too large is refused before any of it is read,
one that turns out to be as soon as it does. Compressed bodies are inflated on the way, big ones in
threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from server.errors import InvalidRequest, RequestTooLarge
from server.http_api.compression import Inflater, read_encoding

__all__ = ["BodyReader", "Disconnected", "Receive", "linger", "read_length"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

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
    """

    def __init__(self, max_bytes: int, threads: Executor) -> None:
        self._max_bytes = max_bytes
        self._threads = threads

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | bytearray:
        """Read a whole body: in one piece as it comes, in several into one buffer.

        Args:
            headers: of the request.
            receive: gives its messages.

        Raises:
            RequestTooLarge: if it is larger than the limit.
            UnsupportedMediaType: if its encoding is not one that we read.
            InvalidRequest: if it is not of its encoding.
            Disconnected: if the client goes before its end.
        """
        announced = read_length(headers.get(b"content-length"), "Content-Length")
        if announced is not None and announced > self._max_bytes:
            raise self._too_large()
        encoding = read_encoding(headers.get(b"content-encoding"))
        if encoding:
            return await self._read_compressed(encoding, receive)
        first, has_more = await self._read_chunk(receive, 0)
        if not has_more:
            return first
        buffer = bytearray(first)
        while has_more:
            chunk, has_more = await self._read_chunk(receive, len(buffer))
            buffer += chunk
        return buffer

    async def _read_chunk(self, receive: Receive, before: int) -> tuple[bytes, bool]:
        """The next chunk, after as many bytes `before` it, and whether there are more to come."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk: bytes = message.get("body", b"")
        if before + len(chunk) > self._max_bytes:
            raise self._too_large()
        return chunk, message.get("more_body", False)

    async def _read_compressed(self, encoding: str, receive: Receive) -> bytearray:
        inflater = Inflater(encoding, self._max_bytes)
        received, has_more = 0, True
        while has_more:
            chunk, has_more = await self._read_chunk(receive, received)
            received += len(chunk)
            inflater.feed(chunk)
            if not inflater.work(_STEPS_ON_LOOP):
                await asyncio.get_running_loop().run_in_executor(self._threads, inflater.work)
        return inflater.finish()

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
