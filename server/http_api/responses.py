"""Responses over HTTP: errors in the protocol's shape, compression for clients that accept it.

Runs in the front-end, under the infer route and the rest of the HTTP API.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import Executor
from functools import lru_cache

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.errors import (
    QueueFull,
    RequestError,
    RequestTooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from server.http_api.body import ENCODINGS, WINDOW_BITS, canonical_encoding, discard_body
from workers.runtime.texts import abridge

__all__ = [
    "LEAST_COMPRESSED_BYTES",
    "closing_connection",
    "compress_response",
    "error_response",
    "preferred_encoding",
    "send_error",
]

#: Smaller responses are sent as they are.
LEAST_COMPRESSED_BYTES = 4096
#: Larger ones are compressed in a thread.
_MAX_ON_LOOP_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 17
_LEVEL = 1
_MOST_SIZE_RATIO = 0.7
_MAX_TEXT_BYTES = 4096
_CLOSE = (b"connection", b"close")


def error_response(error: RequestError) -> Response:
    """An error in the protocol's shape, with the headers that its status calls for."""
    headers = {}
    if isinstance(error, QueueFull | Unavailable):
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, RequestTooLarge | Unauthenticated):
        headers["connection"] = "close"  # the rest of the body is not read
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, UnsupportedMediaType):
        headers["accept-encoding"] = ", ".join(ENCODINGS)
    text = abridge(error.message, _MAX_TEXT_BYTES)  # it may quote what the client has sent
    body = orjson.dumps({"error": text})
    return Response(body, error.http_status, headers, "application/json")


async def send_error(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error; a client that is still sending a body gets the time to read the error.

    After ``Expect: 100-continue`` nobody knows whether the body comes, so the connection ends.
    """
    expects_continue = any(name == b"expect" and value for name, value in scope["headers"])
    is_unread = isinstance(error, RequestTooLarge | Unauthenticated) and not expects_continue
    response = error_response(error)
    if expects_continue:
        response.headers["connection"] = "close"
    start = {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": response.raw_headers,
    }
    await send(start)
    await send({"type": "http.response.body", "body": response.body, "more_body": is_unread})
    if is_unread:
        await discard_body(receive)
        await send({"type": "http.response.body", "body": b""})


def closing_connection(send: Send) -> Send:
    """A `send` whose response is the last on its connection: the client should go elsewhere."""

    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start" and _CLOSE not in message["headers"]:
            message["headers"] = [*message["headers"], _CLOSE]
        await send(message)

    return send_and_close


async def compress_response(
    response: Response, accept_encoding: bytes | None, threads: Executor
) -> None:
    """Compress a response if the client accepts that and it gets much smaller.

    It must have `LEAST_COMPRESSED_BYTES`; a large one is compressed in `threads`.
    """
    response.headers["vary"] = "accept-encoding"
    encoding = preferred_encoding(accept_encoding) if accept_encoding is not None else ""
    if not encoding:
        return
    body = bytes(response.body)
    if len(body) < _MAX_ON_LOOP_BYTES:
        smaller = _compress(body, encoding)
    else:
        loop = asyncio.get_running_loop()
        smaller = await loop.run_in_executor(threads, _compress, body, encoding)
    if smaller is not None:
        response.body = smaller
        response.headers["content-length"] = str(len(smaller))
        response.headers["content-encoding"] = encoding


def _compress(body: bytes, encoding: str) -> bytes | None:
    """Compress in one pass, given up as soon as it saves too little, as with most raw numbers."""
    stream = zlib.compressobj(_LEVEL, wbits=WINDOW_BITS[encoding])
    view, out = memoryview(body), bytearray()
    for start in range(0, len(body), _BLOCK_BYTES):
        out += stream.compress(view[start : start + _BLOCK_BYTES])
        if len(out) > _MOST_SIZE_RATIO * (start + _BLOCK_BYTES):
            return None
    out += stream.flush()
    return bytes(out) if len(out) <= _MOST_SIZE_RATIO * len(body) else None


@lru_cache(maxsize=256)
def preferred_encoding(accept_encoding: bytes) -> str:
    """The encoding of responses that an Accept-Encoding prefers among ours, "" for none."""
    weights: dict[str, float] = {}
    for part in accept_encoding.decode("latin-1").lower().split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        weights[canonical_encoding(name)] = _weight(parameters)
    default = weights.get("*", 0.0)
    best = max(ENCODINGS, key=lambda name: weights.get(name, default))
    weight = weights.get(best, default)
    # If it is not named, identity is acceptable, and comes last.
    return best if weight > 0 and weight >= weights.get("", 0.0) else ""


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value) if 0 <= float(value) <= 1 else 0.0
            except ValueError:
                return 0.0
    return 1.0
