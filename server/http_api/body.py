"""Reads request bodies from ASGI, within limits: announced, received and decompressed bytes.

Runs in the front-end. A body that is announced as too large is refused before any of it is read,
one that turns out to be as soon as it does; what has arrived counts against the memory budget of
bodies. Compressed bodies are decompressed as they arrive, large ones in threads.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import suppress

from starlette.types import Receive

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget, Reservation
from server.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

__all__ = [
    "BODY_TIMEOUT",
    "ENCODINGS",
    "WINDOW_BITS",
    "BodyReader",
    "Decompressor",
    "Disconnected",
    "canonical_encoding",
    "discard_body",
    "is_length",
    "read_encoding",
    "read_length",
]

#: An extension in the scope of a request that was ended since its body did not come in time.
BODY_TIMEOUT = "ensembled.body_timeout"

ENCODINGS = ("gzip", "deflate")
_ALIASES = {"identity": "", "x-gzip": "gzip"}
#: What zlib calls these encodings.
WINDOW_BITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_ROUND_BYTES = 1 << 17
_ROUNDS_ON_LOOP = 2
_MAX_GZIP_MEMBERS = 1 << 12

#: Whether a header holds a length, and no absurd one.
is_length = re.compile(rb"[0-9]{1,18}").fullmatch
_DISCARD_S = 5.0


class Disconnected(Exception):
    """The client has gone; nobody is there to answer."""

    outcome = "disconnected"


class BodyReader:
    """Reads bodies of at most `max_bytes`, both as they arrive and decompressed.

    The error for a body that is too large ends with `hint`: what the client can do.
    """

    def __init__(
        self,
        max_bytes: int,
        threads: Executor,
        budget: MemoryBudget | None = None,
        *,
        hint: str = "",
    ) -> None:
        self._max_bytes = max_bytes
        self._threads = threads
        self._budget = MemoryBudget() if budget is None else budget
        self._hint = hint

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | bytearray:
        """Read a whole body; from `COUNTED_BYTES` on, it counts in the budget until released.

        Raises `RequestTooLarge`, `QueueFull` if other bodies hold too much for it to come,
        `UnsupportedMediaType` for an unknown encoding, `InvalidRequest` if the body is not of its
        encoding, and `Disconnected` if the client goes before its end.
        """
        announced = read_length(headers.get(b"content-length"), "Content-Length")
        if announced is not None and announced >= COUNTED_BYTES:
            if announced > self._max_bytes:
                raise self._too_large("is larger than")
            self._budget.check(announced)
        encoding = read_encoding(headers.get(b"content-encoding"))
        first, has_more = await self._read_chunk(receive, 0)
        if not has_more and not encoding and len(first) < COUNTED_BYTES:
            return first
        reservation, length = Reservation(self._budget), 0
        try:
            if encoding:
                body: bytes | bytearray = await self._decompress(
                    Decompressor(encoding, self._max_bytes), first, has_more, receive, reservation
                )
            else:
                body = await self._join(first, has_more, receive, reservation)
            length = len(body)
        finally:
            reservation.resize(length if length >= COUNTED_BYTES else 0)
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
            raise self._too_large("is larger than")
        return chunk, message.get("more_body", False)

    async def _join(
        self, first: bytes, has_more: bool, receive: Receive, reservation: Reservation
    ) -> bytes | bytearray:
        reservation.resize(len(first))
        if not has_more:
            return first
        buffer = bytearray(first)
        while has_more:
            chunk, has_more = await self._read_chunk(receive, len(buffer))
            reservation.resize(len(buffer) + len(chunk))
            buffer += chunk
        return buffer

    async def _decompress(
        self,
        decompressor: Decompressor,
        chunk: bytes,
        has_more: bool,
        receive: Receive,
        reservation: Reservation,
    ) -> bytearray:
        received = len(chunk)
        while True:
            decompressor.feed(chunk)
            reservation.resize(decompressor.held_bytes)
            if not decompressor.work(_ROUNDS_ON_LOOP):
                await asyncio.get_running_loop().run_in_executor(self._threads, decompressor.work)
            if decompressor.is_too_large:
                raise self._too_large("decompresses beyond")
            reservation.resize(decompressor.held_bytes)
            if not has_more:
                return decompressor.finish()
            chunk, has_more = await self._read_chunk(receive, received)
            received += len(chunk)

    def _too_large(self, how: str) -> RequestTooLarge:
        return RequestTooLarge(f"the body {how} the limit of {self._max_bytes} bytes{self._hint}")


class Decompressor:
    """One body in one of `ENCODINGS`; once `is_too_large`, nothing more is decompressed."""

    def __init__(self, encoding: str, limit_bytes: int) -> None:
        self._encoding = encoding
        self._limit_bytes = limit_bytes
        self._stream = zlib.decompressobj(WINDOW_BITS[encoding])
        self._members = 1
        self._rest = b""
        self._out = bytearray()
        self.is_too_large = False

    @property
    def held_bytes(self) -> int:
        """What was fed and is not decompressed, and what came of the rest."""
        return len(self._rest) + len(self._out)

    def feed(self, chunk: bytes) -> None:
        """Add the next chunk; `work` decompresses it."""
        self._rest += chunk

    def work(self, rounds: int = 1 << 62) -> bool:
        """Decompress what was fed, or what is done in so many rounds; may run in a thread.

        Returns whether nothing is left to do. Raises `InvalidRequest` if it is not of this
        encoding.
        """
        try:
            for _ in range(rounds):
                if self._stream.eof and self._rest:
                    self._begin_member()
                if self.is_too_large or not self._decompress_some():
                    return True
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {self._encoding}: {error}") from None
        return False

    def finish(self) -> bytearray:
        """The whole body; `InvalidRequest` if it ends too early."""
        if not self._stream.eof:
            raise InvalidRequest(f"the {self._encoding} body ends too early")
        return self._out

    def _decompress_some(self) -> bool:
        """Decompress at most `_ROUND_BYTES`; False if nothing went in and nothing came out."""
        space = self._limit_bytes - len(self._out)
        before = len(self._rest)
        out = self._stream.decompress(self._rest, min(space + 1, _ROUND_BYTES))
        self._rest = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        self.is_too_large = len(out) > space
        if not self.is_too_large:
            self._out += out
        return bool(out) or len(self._rest) < before

    def _begin_member(self) -> None:
        """Begin the next member of a gzip file that has several."""
        self._members += 1
        if self._encoding != "gzip":
            raise InvalidRequest(f"the body goes on after the end of its {self._encoding} data")
        if self._members > _MAX_GZIP_MEMBERS:
            raise InvalidRequest(f"the gzip body has more than {_MAX_GZIP_MEMBERS} members")
        self._stream = zlib.decompressobj(WINDOW_BITS["gzip"])


def canonical_encoding(name: str) -> str:
    """The usual name of a content coding, "" for identity."""
    return _ALIASES.get(name, name)


def read_encoding(header: bytes | None) -> str:
    """The encoding that Content-Encoding names, "" for none; `UnsupportedMediaType` for others."""
    if header is None:
        return ""
    name = header.decode("latin-1").strip().lower()
    encoding = canonical_encoding(name)
    if encoding and encoding not in ENCODINGS:
        raise UnsupportedMediaType(
            f"Content-Encoding {name!r} is not supported, use {' or '.join(ENCODINGS)} or none"
        )
    return encoding


def read_length(value: bytes | None, header: str) -> int | None:
    """Read a header that holds a length; `InvalidRequest` if it does not."""
    if value is None:
        return None
    if not is_length(value):
        raise InvalidRequest(f"{header} is not a length")
    return int(value)


async def discard_body(receive: Receive) -> None:
    """Read and discard for a while: many clients read no response before they have sent all."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            message = await receive()
            while message["type"] != "http.disconnect" and message.get("more_body", False):
                message = await receive()
