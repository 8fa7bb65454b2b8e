"""One request on a connection and its response, as an ASGI application sees them.

Runs in the front-end. A head, pieces of a body and the client's end flow in, `receive` and `send`
are the application's side, and the response flows out to the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

import orjson

from server.http_api.framing import Head

__all__ = ["Application", "AsgiCall", "Writer", "response_head"]

_log = logging.getLogger(__name__)

#: So much of a body that the application has not taken stops the reading.
_MOST_UNREAD_BYTES = 1 << 16
_NO_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}

Application = Any
Message = MutableMapping[str, Any]

_status_lines = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


class Writer(Protocol):
    """The connection, as its calls know it."""

    def common_headers(self) -> bytes:
        """What all responses have, as lines."""
        ...

    def write_response(self, call: AsgiCall, data: bytes) -> None:
        """Send some of a call's response."""
        ...

    def end_response(self, call: AsgiCall) -> None:
        """A call's response is complete."""
        ...

    async def wait_writable(self) -> None:
        """Wait until the client has taken enough of what it was sent."""
        ...

    def pause_body(self) -> None:
        """Read nothing more for now."""
        ...

    def resume_body(self, call: AsgiCall) -> None:
        """Read on, if that is what the call waits for."""
        ...


def response_head(status: int, common: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of a response, with the empty line behind it."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([_status_lines[status], common, *lines, b"\r\n"])


class AsgiCall:
    """One request.

    Args:
        head: of the request.
        writer: where the response goes.
        is_infer: whether the application is stopped when the client goes.

    Attributes:
        head: of the request.
        keep_alive: whether the connection stays when it is answered.
        more_body: whether its body is not there as a whole.
        response_started, response_complete: how far its answer is.
        extensions: of its scope.
    """

    def __init__(self, head: Head, writer: Writer, *, is_infer: bool = False) -> None:
        self.head = head
        self.extensions: dict[str, Any] = {}
        self._is_infer = is_infer
        self.keep_alive = head.keep_alive
        self.more_body = True
        self.response_started = self.response_complete = False
        self._writer = writer
        self._body = bytearray()
        self._gone = False
        self._changed = asyncio.Event()
        self._start: Message | None = None
        self._is_chunked = False
        self._asks_first = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in head.headers
        )
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False

    # -- the client's side --------------------------------------------------------------------

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Some of the body has come."""
        if self.response_complete:
            return
        self._body += data
        if len(self._body) > _MOST_UNREAD_BYTES:
            self._writer.pause_body()
        self._changed.set()

    def end_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        self._changed.set()

    def disconnect(self, *, cancel: bool = False) -> None:
        """The client has gone, or (without `cancel`) was answered otherwise."""
        self._gone = True
        self._changed.set()
        if cancel and self._is_infer and self._task is not None and not self.response_complete:
            self._is_cancelled = True
            self._task.cancel()

    # -- the application's side ---------------------------------------------------------------

    def start(
        self, application: Application, scope: Message, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Task[None]:
        """Have it answered."""
        self._task = loop.create_task(self._run(application, scope))
        return self._task

    async def _run(self, application: Application, scope: Message) -> None:
        try:
            await application(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._is_cancelled:
                raise
        except Exception:
            _log.exception("a request failed")
        if self.response_complete or self._gone:
            return
        if self.response_started:
            self.keep_alive = False
            self._end()
            return
        self.keep_alive = False
        body = orjson.dumps({"error": "internal error"})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> Message:
        """The next piece of the body, or that the client has gone."""
        if self._asks_first:
            self._asks_first = False
            if not self._body and self.more_body:
                self._writer.write_response(self, b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self._gone or self.response_complete):
            self._writer.resume_body(self)
            if not self._changed.is_set():
                await self._changed.wait()
            self._changed.clear()
        if self._gone or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """Take some of the response; the head goes out with the first of the body."""
        await self._writer.wait_writable()
        if self._gone or self.response_complete:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        data = self._opening() if not self.response_started else b""
        self.response_started = True
        body: bytes = message.get("body", b"")
        is_last = not message.get("more_body", False)
        if self.head.method != b"HEAD":
            data += self._framed(body, is_last)
        if data:
            self._writer.write_response(self, data)
        if is_last:
            self._end()

    def _opening(self) -> bytes:
        assert self._start is not None, "the head comes first"
        self._asks_first = False
        status = self._start["status"]
        headers: list[tuple[bytes, bytes]] = list(self._start.get("headers", ()))
        names = {name.lower() for name, _ in headers}
        if (b"connection", b"close") in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        has_body = self.head.method != b"HEAD" and status not in _NO_BODY
        if has_body and b"content-length" not in names:
            if self.head.http_version == "1.0":
                self.keep_alive = False  # the end of the connection is that of the body
            else:
                self._is_chunked = True
                headers.append((b"transfer-encoding", b"chunked"))
        return response_head(status, self._writer.common_headers(), headers)

    def _framed(self, body: bytes, is_last: bool) -> bytes:
        if not self._is_chunked:
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk + b"0\r\n\r\n" if is_last else chunk

    def _end(self) -> None:
        self.response_complete = True
        self._changed.set()
        self._writer.end_response(self)
