"""What goes back over HTTP: errors in the protocol's shape, answers compressed if that is wanted.

Runs in the front-end, under the infer route and the rest of the HTTP API.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor
from typing import Any, NamedTuple

import orjson

from server.errors import (
    QueueFull,
    RequestError,
    RequestTooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from server.http_api.body import Receive, linger
from server.http_api.compression import ENCODINGS, compress_if_worth, preferred

__all__ = [
    "JSON",
    "RAW",
    "Header",
    "HttpAnswer",
    "Scope",
    "Send",
    "VARY",
    "compressed",
    "error_answer",
    "parting",
    "refuse",
]

Scope = MutableMapping[str, Any]
Header = tuple[bytes, bytes]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
RAW = (b"content-type", b"application/octet-stream")
_CLOSE = (b"connection", b"close")
VARY = (b"vary", b"accept-encoding")
_MAX_TEXT = 4096
_BIG_BYTES = 1 << 16


class HttpAnswer(NamedTuple):
    """A response but for its Content-Length."""

    status: int
    body: bytes
    headers: list[Header]

    async def send(self, send: Send, *, is_last: bool = True) -> None:
        """Send it; if it is not the last that is sent, the connection stays as it is."""
        self.headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": not is_last})


def error_answer(error: RequestError) -> HttpAnswer:
    """An error in the protocol's shape, with what else its status calls for."""
    headers = [JSON]
    if isinstance(error, QueueFull | Unavailable):
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    if isinstance(error, RequestTooLarge | Unauthenticated):
        headers.append(_CLOSE)  # the rest of the body is not read
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, UnsupportedMediaType):
        headers.append((b"accept-encoding", ", ".join(ENCODINGS).encode()))
    text = error.message
    if len(text) > _MAX_TEXT:  # it quotes what the client has sent
        text = text[: _MAX_TEXT - 1] + "…"
    return HttpAnswer(error.http_status, orjson.dumps({"error": text}), headers)


def parting(send: Send) -> Send:
    """Sends an answer that is the last on its connection: the client should go elsewhere."""

    async def send_last(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and _CLOSE not in message["headers"]:
            message["headers"] = [*message["headers"], _CLOSE]
        await send(message)

    return send_last


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error; a client that is still sending what nobody reads gets the chance to read it.

    One that asks first, by ``Expect: 100-continue``, sends nothing more; what would come then, if
    not the body, nobody knows, so that is the connection's end.
    """
    asks_first = any(name == b"expect" and value for name, value in scope["headers"])
    lingers = isinstance(error, RequestTooLarge | Unauthenticated) and not asks_first
    answer = error_answer(error)
    if asks_first and _CLOSE not in answer.headers:
        answer.headers.append(_CLOSE)
    await answer.send(send, is_last=not lingers)
    if lingers:
        await linger(receive)
        await send({"type": "http.response.body", "body": b""})


async def compressed(
    answer: HttpAnswer, request_headers: Mapping[bytes, bytes], threads: Executor
) -> HttpAnswer:
    """Compress an answer if the client asks for it and it gets smaller, a big one in a thread.

    Args:
        answer: of `LEAST_BYTES` or more.
        request_headers: of the request.
        threads: where it is compressed if it is big.
    """
    body = answer.body
    answer.headers.append(VARY)
    accept = request_headers.get(b"accept-encoding")
    encoding = preferred(accept) if accept is not None else ""
    if not encoding:
        return answer
    if len(body) < _BIG_BYTES:
        smaller = compress_if_worth(body, encoding)
    else:
        loop = asyncio.get_running_loop()
        smaller = await loop.run_in_executor(threads, compress_if_worth, body, encoding)
    if smaller is None:
        return answer
    answer.headers.append((b"content-encoding", encoding.encode()))
    return answer._replace(body=smaller)
