"""HTTP/1.1 responses out of the bytes of a connection. Pure.

Lean, because it runs once per answer: an answer with a Content-Length that comes in one piece
costs a few searches. Everything else that servers and proxies send is understood, too: chunks,
interim responses, bodies that end with the connection.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

__all__ = ["BadResponseError", "Head", "Response", "ResponseReader", "parse_head"]

_MOST_HEAD_BYTES = 1 << 16
_END = b"\r\n\r\n"
_NO_BODY = {204, 304}


class BadResponseError(Exception):
    """The bytes are no HTTP response, or it is cut short."""


class Head(NamedTuple):
    """What the head of a response says.

    Attributes:
        status: its code.
        length: of the body; None if that is told otherwise.
        is_chunked: whether it comes in chunks.
        keeps_open: whether the connection can carry another request.
        json_length: of the part of the body that is JSON; None if all of it is.
    """

    status: int
    length: int | None
    is_chunked: bool
    keeps_open: bool
    json_length: int | None


class Response(NamedTuple):
    """A complete response; its body is without framing."""

    head: Head
    body: bytes


@functools.lru_cache(256)  # those of a server differ in little: not even a date every time
def parse_head(head: bytes) -> Head:
    """Read the head of a response, from its first byte to the last header's line end.

    Raises:
        BadResponseError: if it can't be understood.
    """
    lines = head.lower().split(b"\r\n")
    if not lines[0].startswith(b"http/1.") or not lines[0][9:12].isdigit():
        raise BadResponseError(f"not an HTTP/1.1 response: {head[:40]!r}")
    status = int(lines[0][9:12])
    headers = {
        name: value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])
    }
    connection = headers.get(b"connection", b"")
    is_old = lines[0].startswith(b"http/1.0")
    coding = headers.get(b"transfer-encoding")
    if coding is not None and not coding.endswith(b"chunked"):
        raise BadResponseError(f"unknown transfer encoding {coding!r}")
    length = _length(headers, b"content-length") if coding is None else None
    return Head(
        status=status,
        length=0 if status in _NO_BODY else length,
        is_chunked=coding is not None and status not in _NO_BODY,
        keeps_open=b"keep-alive" in connection if is_old else b"close" not in connection,
        json_length=_length(headers, b"inference-header-content-length"),
    )


def _length(headers: dict[bytes, bytes], name: bytes) -> int | None:
    text = headers.get(name)
    if text is not None and not text.isdigit():
        raise BadResponseError(f"{name.decode().title()} is {text!r}")
    return None if text is None else int(text)


class ResponseReader:
    """Reads one response after the other; there is one request in flight per connection."""

    __slots__ = ("_buffer", "_chunks", "_head", "_position")

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._head: Head | None = None
        self._chunks: list[bytes] = []
        self._position = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a response has come yet."""
        return self._head is None and not self._buffer

    def feed(self, data: bytes) -> Response | None:
        """Take what came; the response if that completes it.

        Raises:
            BadResponseError: if it can't be understood, or goes on after its end.
        """
        if self._buffer:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
        else:
            self._buffer = data
        head = self._head or self._read_head()
        return None if head is None else self._read_body(head)

    def end(self) -> Response:
        """The connection is closed: return the response that this completes.

        Raises:
            BadResponseError: if it completes none.
        """
        if self._head is None:
            raise BadResponseError("the server closed the connection without an answer")
        if self._head.length is not None or self._head.is_chunked:
            raise BadResponseError("the server closed the connection within an answer")
        self._head = self._head._replace(keeps_open=False)
        return self._complete(self._head, bytes(self._buffer[self._position :]), len(self._buffer))

    def _read_head(self) -> Head | None:
        """The head, if all of it is there; interim responses are skipped."""
        while True:
            end = self._buffer.find(_END)
            if end < 0:
                if len(self._buffer) > _MOST_HEAD_BYTES:
                    raise BadResponseError("the head of the answer does not end")
                return None
            head = parse_head(bytes(self._buffer[:end]))
            if head.status >= 200 or head.status == 101:
                break
            self._buffer = self._buffer[end + len(_END) :]
        self._head, self._position = head, end + len(_END)
        return head

    def _read_body(self, head: Head) -> Response | None:
        if head.is_chunked:
            return self._read_chunks(head)
        if head.length is None:
            return None  # it ends with the connection
        end = self._position + head.length
        if len(self._buffer) < end:
            return None
        return self._complete(head, bytes(self._buffer[self._position : end]), end)

    def _read_chunks(self, head: Head) -> Response | None:
        while True:
            line_end = self._buffer.find(b"\r\n", self._position)
            if line_end < 0:
                return None
            size_text = bytes(self._buffer[self._position : line_end]).split(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError:
                raise BadResponseError(f"the size of a chunk is {size_text[:20]!r}") from None
            if size == 0:
                return self._read_trailer(head, line_end)
            start = line_end + 2
            if len(self._buffer) < start + size + 2:
                return None
            if self._buffer[start + size : start + size + 2] != b"\r\n":
                raise BadResponseError("a chunk does not end where it should")
            self._chunks.append(bytes(self._buffer[start : start + size]))
            self._position = start + size + 2

    def _read_trailer(self, head: Head, line_end: int) -> Response | None:
        if self._buffer[line_end : line_end + 4] == _END:
            return self._complete(head, b"".join(self._chunks), line_end + 4)
        end = self._buffer.find(_END, line_end)
        return None if end < 0 else self._complete(head, b"".join(self._chunks), end + len(_END))

    def _complete(self, head: Head, body: bytes, end: int) -> Response:
        if len(self._buffer) > end:
            raise BadResponseError("the server sent more than one answer to one request")
        self._buffer = b""
        self._head = None
        self._chunks = []
        self._position = 0
        return Response(head, body)
