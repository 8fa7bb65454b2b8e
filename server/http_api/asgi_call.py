"""One request on a connection and its response, as an ASGI application sees them.

Runs in the front-end.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any, Protocol

import orjson
from starlette.types import ASGIApp, Message, Scope

from server.http_api.request_parser import RequestHead

__all__ = ["AsgiCall", "ClientAddress", "ClientConnection", "response_head"]

_log = logging.getLogger(__name__)

#: So much of a body that the application has not received pauses the reading.
_MAX_PENDING_BYTES = 1 << 16
_NO_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}

ClientAddress = tuple[str, int] | None

_status_lines = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


class ClientConnection(Protocol):
    """The connection, as its requests know it."""

    client: ClientAddress
    certificate_name: str

    def common_headers(self) -> bytes:
        """What all responses have, as lines."""
        ...

    def write_response(self, data: bytes) -> None:
        """Send some of a response."""
        ...

    def end_response(self, call: Any) -> None:
        """A call's response is complete."""
        ...

    def send_answer(self, call: Any, head: bytes, values: bytes | bytearray) -> None:
        """Send a call's whole response, which may end with values that are not copied again."""
        ...

    async def wait_writable(self) -> None:
        """Wait until the client has received enough of what was sent."""
        ...

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        ...

    def resume_reading_for(self, call: AsgiCall) -> None:
        """Read on, if it is this call's turn."""
        ...


def response_head(status: int, common: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of a response, with the empty line after it."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join([_status_lines[status], common, *lines, b"\r\n"])


class AsgiCall:
    """One request; if `is_infer`, the application is cancelled when the client goes."""

    def __init__(
        self, head: RequestHead, connection: ClientConnection, *, is_infer: bool = False
    ) -> None:
        self.head = head
        self.extensions: dict[str, Any] = {}
        self._is_infer = is_infer
        self.keep_alive = head.keep_alive
        self.more_body = True
        self.response_started = self.response_complete = False
        self._connection = connection
        self._body = bytearray()
        self._is_gone = False
        self._changed = asyncio.Event()
        self._start: Message | None = None
        self._is_chunked = False
        self._expects_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in head.headers
        )
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False

    # -- the client's side --------------------------------------------------------------------

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add some of the body."""
        if self.response_complete:
            return
        self._body += data
        if len(self._body) > _MAX_PENDING_BYTES:
            self._connection.pause_reading()
        self._changed.set()

    def end_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        self._changed.set()

    def disconnect(self, *, cancel: bool = False) -> None:
        """The client has gone, or (without `cancel`) was answered otherwise."""
        self._is_gone = True
        self._changed.set()
        if cancel and self._is_infer and self._task is not None and not self.response_complete:
            self._is_cancelled = True
            self._task.cancel()

    # -- the application's side ---------------------------------------------------------------

    def start(
        self, application: ASGIApp, scope: Scope, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Task[None]:
        """Run the application."""
        self._task = loop.create_task(self._run(application, scope))
        return self._task

    async def _run(self, application: ASGIApp, scope: Scope) -> None:
        try:
            await application(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._is_cancelled:
                raise
        except Exception:
            _log.exception("a request failed")
        if self.response_complete or self._is_gone:
            return
        self.keep_alive = False
        if self.response_started:
            self._end()
            return
        body = orjson.dumps({"error": "internal error"})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> Message:
        """The next part of the body, or that the client has gone."""
        if self._expects_continue:
            self._expects_continue = False
            if not self._body and self.more_body:
                self._connection.write_response(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self._is_gone or self.response_complete):
            self._connection.resume_reading_for(self)
            if not self._changed.is_set():
                await self._changed.wait()
            self._changed.clear()
        if self._is_gone or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """Send some of the response; the head goes out with the first of the body."""
        await self._connection.wait_writable()
        if self._is_gone or self.response_complete:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        data = self._head() if not self.response_started else b""
        self.response_started = True
        body: bytes = message.get("body", b"")
        is_last = not message.get("more_body", False)
        if self.head.method != b"HEAD":
            data += self._chunk(body, is_last)
        if data:
            self._connection.write_response(data)
        if is_last:
            self._end()

    def _head(self) -> bytes:
        assert self._start is not None, "the head comes first"
        self._expects_continue = False
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
        return response_head(status, self._connection.common_headers(), headers)

    def _chunk(self, body: bytes, is_last: bool) -> bytes:
        if not self._is_chunked:
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk + b"0\r\n\r\n" if is_last else chunk

    def _end(self) -> None:
        self.response_complete = True
        self._changed.set()
        self._connection.end_response(self)
