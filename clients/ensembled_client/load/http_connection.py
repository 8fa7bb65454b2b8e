"""Requests over HTTP/1.1. Runs in each load process.

The connection is kept alive; if it is lost the next request opens a new one, and that time is part
of its latency, as for any client. Of every response its status is checked, and that it is complete
and names its outputs; decoding all would make the tester the bottleneck, so only the first of a
connection (for each number of rows) is decoded.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import httptools

from ensembled_client.load.loops import LoadConnection
from ensembled_client.load.options import LoadTarget
from ensembled_client.load.stats import RequestResult, connect_error, error_kind, find_fault
from ensembled_client.wire import HEADER_LENGTH, WireError, decode_response

__all__ = [
    "BadResponseError",
    "HttpLoadConnection",
    "Response",
    "ResponseChecker",
    "ResponseReader",
]

_MAX_HEAD_BYTES = 1 << 16
_MAX_ERROR_BYTES = 120
_MAX_KNOWN_HEADS = 64
_JSON_LENGTH = HEADER_LENGTH.lower().encode()
_HEADERS = {_JSON_LENGTH, b"content-length", b"transfer-encoding"}
_DEGRADED = (b'"degraded":true', b'"degraded": true')

_GOOD = RequestResult(None)
_GOOD_DEGRADED = RequestResult(None, is_degraded=True)


class BadResponseError(Exception):
    """The bytes are not an HTTP response, or it is cut short."""


class Response(NamedTuple):
    """A complete response; `json_length` is None if all of its body is JSON."""

    status: int
    body: bytes
    json_length: int | None = None
    keeps_alive: bool = True


_UNKNOWN = -1, Response(0, b"")


class ResponseReader:
    """Reads one response after the other; there is one request in flight per connection.

    A server's heads differ in little, so heads are looked up: half the cost of parsing them.
    """

    __slots__ = (
        "_fault", "_has_head", "_head_bytes", "_headers", "_known_heads", "_parser", "_pieces",
        "_response",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._has_head = False
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        # By head: the length of the body, and the response without it.
        self._known_heads: dict[bytes, tuple[int, Response]] = {}
        self._response: Response | None = None
        self._fault: str | None = None

    def feed(self, data: bytes) -> Response | None:
        """Return the response that `data` completes, if any.

        Raises BadResponseError if it is no response, or continues after its end.
        """
        if self._has_head or self._head_bytes:
            return self._parse(data)
        head, _, body = data.partition(b"\r\n\r\n")
        length, known = self._known_heads.get(head, _UNKNOWN)
        if length == len(body):
            return Response(known.status, body, known.json_length, known.keeps_alive)
        response = self._parse(data)
        if (
            response is not None
            and b"content-length" in self._headers
            and len(body) == len(response.body)
        ):
            if len(self._known_heads) >= _MAX_KNOWN_HEADS:
                self._known_heads.clear()
            self._known_heads[head] = len(body), response._replace(body=b"")
        return response

    def _parse(self, data: bytes) -> Response | None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fault = self._fault or (
                f"not an HTTP/1.1 response: {error}"
                if self._response is None
                else "the server sent more than one response to one request"
            )
        if self._fault is not None:
            raise BadResponseError(self._fault)
        response, self._response = self._response, None
        if response is not None:
            self._head_bytes = 0
        elif not self._has_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                raise BadResponseError("the head of the response does not end")
        return response

    def end(self) -> Response:
        """Return the response that the server's closing completes, or raise BadResponseError."""
        if not self._has_head:
            raise BadResponseError("the server closed the connection without a response")
        if b"content-length" in self._headers or b"transfer-encoding" in self._headers:
            raise BadResponseError("the server closed the connection within a response")
        self.on_message_complete()
        if self._response is None:
            raise BadResponseError(self._fault or "the response is an interim one")
        return self._response

    # -- callbacks of httptools -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Prepare for a response."""
        if self._response is not None:
            self._fault = "the server sent more than one response to one request"
        self._headers.clear()
        self._pieces.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that matter here."""
        name = name.lower()
        if name in _HEADERS:
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Check how the body is framed."""
        self._has_head = True
        coding = self._headers.get(b"transfer-encoding")
        if coding is not None and not coding.lower().endswith(b"chunked"):
            self._fault = f"unknown transfer encoding {coding!r}"

    def on_body(self, data: bytes) -> None:
        """Collect the body."""
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Make the response; interim ones (1xx) are skipped."""
        self._has_head = False
        status = self._parser.get_status_code()
        if status < 200:
            return
        length = self._headers.get(_JSON_LENGTH)
        if length is not None and not length.isdigit():
            self._fault = f"{HEADER_LENGTH} is {length!r}"
            return
        self._response = Response(
            status,
            b"".join(self._pieces),
            None if length is None else int(length),
            self._parser.should_keep_alive(),
        )


class ResponseChecker:
    """Checks the responses of one connection."""

    __slots__ = ("_raw_bytes",)

    def __init__(self) -> None:
        # By number of rows: the length of the binary tensors; None for JSON.
        self._raw_bytes: dict[int, int | None] = {}

    def check(self, response: Response, rows: int) -> RequestResult:
        """Return how a request of so many rows ended."""
        if response.status != 200:
            return RequestResult(error_kind(response.status, _error_message(response.body)))
        text, raw_bytes = response.body, None
        if response.json_length is not None:
            raw_bytes = len(text) - response.json_length
            if raw_bytes < 0:
                return RequestResult("wrong response: it is shorter than its JSON")
            text = text[: response.json_length]
        fault = None
        if rows not in self._raw_bytes:
            fault = _find_body_fault(response, rows)
            if fault is None:
                self._raw_bytes[rows] = raw_bytes
        elif self._raw_bytes[rows] != raw_bytes:
            fault = "its tensors are not as long as those of the first response"
        elif b'"outputs"' not in text:
            fault = "it has no outputs"
        if fault is not None:
            return RequestResult(f"wrong response: {fault}")
        if _DEGRADED[0] in text or _DEGRADED[1] in text:
            return _GOOD_DEGRADED
        return _GOOD


def _error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:_MAX_ERROR_BYTES].decode(errors="replace")


def _find_body_fault(response: Response, rows: int) -> str | None:
    try:
        outputs = decode_response(response.body, response.json_length).outputs
    except WireError as error:
        return str(error)
    return find_fault(outputs, rows)


@dataclass(eq=False, slots=True)
class HttpLoadConnection(LoadConnection, asyncio.Protocol):
    """A TCP connection to the server."""

    target: LoadTarget
    tls: ssl.SSLContext | None
    connect_s: float
    _transport: asyncio.Transport | None = field(default=None, init=False)
    _reader: ResponseReader = field(default_factory=ResponseReader, init=False)
    _checker: ResponseChecker = field(default_factory=ResponseChecker, init=False)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._transport is not None

    async def open(self) -> None:
        """Connect; OSError if that fails, or takes too long."""
        address = self.target.address
        try:
            async with asyncio.timeout(self.connect_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: self, address.host, address.port, ssl=self.tls
                )
        except TimeoutError:
            raise OSError(f"not within {self.connect_s:g} s") from None

    def send(self, request: bytes) -> None:
        """Send a request; see `LoadConnection`."""
        self.is_busy = True
        if self._transport is not None:
            self._transport.write(request)
        else:
            self._task = asyncio.get_running_loop().create_task(self._open_and_send(request))

    async def _open_and_send(self, request: bytes) -> None:
        try:
            await self.open()
        except OSError as error:
            self._finish(RequestResult(connect_error(error)))
            return
        finally:
            if self._task is asyncio.current_task():
                self._task = None
        if self._transport is not None:
            self._transport.write(request)

    # -- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start afresh."""
        self._abort()  # of two that raced, the last one counts
        self._transport = cast(asyncio.Transport, transport)
        self._reader = ResponseReader()
        self._checker = ResponseChecker()

    def data_received(self, data: bytes) -> None:
        """Read a response, or a part of it."""
        if not self.is_busy:  # unexpected
            self._abort()
            return
        try:
            response = self._reader.feed(data)
        except BadResponseError as error:
            self.cancel(f"protocol: {error}")
            return
        if response is not None:
            self._handle(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish the current request: the server or the network has closed the connection."""
        self._transport = None
        if not self.is_busy:
            return
        if exc is not None:
            error = getattr(exc, "strerror", None) or exc
            self._finish(RequestResult(f"connection lost: {error}"))
            return
        try:
            response = self._reader.end()
        except BadResponseError as error:
            self._finish(RequestResult(f"connection: {error}"))
        else:
            self._handle(response)

    def _handle(self, response: Response) -> None:
        result = self._checker.check(response, self.rows)
        if not response.keeps_alive:
            self._abort()
        self._finish(result)

    def _abort(self) -> None:
        """Drop the connection at once; its further events are ignored."""
        if self._transport is not None:
            self._transport.set_protocol(_IGNORE)
            self._transport.abort()
            self._transport = None


#: The protocol of an aborted connection.
_IGNORE = asyncio.Protocol()
