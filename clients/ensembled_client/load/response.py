"""HTTP/1.1 responses out of the bytes of a connection. Pure.

Lean, because it runs once per answer: an answer with a Content-Length that comes in one piece
costs a few searches. Everything else that servers and proxies send is understood, too: chunks,
interim responses, bodies that end with the connection.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BadResponseError", "Response", "ResponseReader", "header_of"]

_MOST_HEAD_BYTES = 1 << 16
_END = b"\r\n\r\n"
_NO_BODY = {204, 304}


class BadResponseError(Exception):
    """The bytes are no HTTP response, or it is cut short."""


class Response(NamedTuple):
    """A complete response.

    Attributes:
        status: its code.
        head: status line and headers, in lower case.
        body: without framing.
        keeps_open: whether the connection can carry another request.
    """

    status: int
    head: bytes
    body: bytes
    keeps_open: bool


def header_of(head: bytes, name: bytes) -> bytes | None:
    """Return the value of a header, in lower case; `name` is in lower case, too."""
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


class ResponseReader:
    """Reads one response after the other; there is one request in flight per connection."""

    __slots__ = ("_buffer", "_chunks", "_head", "_keeps_open", "_length", "_position", "_status")

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._forget()

    def _forget(self) -> None:
        self._head: bytes | None = None
        self._status = 0
        self._keeps_open = True
        self._length: int | None = None
        self._chunks: list[bytes] | None = None
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
        if self._head is None and not self._read_head():
            return None
        return self._read_body()

    def end(self) -> Response:
        """The connection is closed: return the response that this completes.

        Raises:
            BadResponseError: if it completes none.
        """
        if self._head is None:
            raise BadResponseError("the server closed the connection without an answer")
        if self._length is not None or self._chunks is not None:
            raise BadResponseError("the server closed the connection within an answer")
        self._keeps_open = False
        return self._complete(bytes(self._buffer[self._position :]), len(self._buffer))

    def _read_head(self) -> bool:
        """Whether the head is there; interim responses are skipped."""
        while True:
            end = self._buffer.find(_END)
            if end < 0:
                if len(self._buffer) > _MOST_HEAD_BYTES:
                    raise BadResponseError("the head of the answer does not end")
                return False
            head = bytes(self._buffer[: end + 2]).lower()
            if not head.startswith(b"http/1.") or not head[9:12].isdigit():
                raise BadResponseError(f"not an HTTP/1.1 response: {head[:40]!r}")
            status = int(head[9:12])
            if status >= 200 or status == 101:
                break
            self._buffer = self._buffer[end + len(_END) :]
        self._head, self._status, self._position = head, status, end + len(_END)
        self._frame(head)
        return True

    def _frame(self, head: bytes) -> None:
        """Find out how the body ends."""
        connection = header_of(head, b"connection") or b""
        self._keeps_open = (
            b"keep-alive" in connection
            if head.startswith(b"http/1.0")
            else b"close" not in connection
        )
        coding = header_of(head, b"transfer-encoding")
        if self._status in _NO_BODY:
            self._length = 0
        elif coding is not None:
            if not coding.endswith(b"chunked"):
                raise BadResponseError(f"unknown transfer encoding {coding!r}")
            self._chunks = []
        elif (length := header_of(head, b"content-length")) is not None:
            if not length.isdigit():
                raise BadResponseError(f"Content-Length is {length!r}")
            self._length = int(length)

    def _read_body(self) -> Response | None:
        if self._chunks is not None:
            return self._read_chunks(self._chunks)
        if self._length is None:
            return None  # it ends with the connection
        end = self._position + self._length
        if len(self._buffer) < end:
            return None
        return self._complete(bytes(self._buffer[self._position : end]), end)

    def _read_chunks(self, chunks: list[bytes]) -> Response | None:
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
                return self._read_trailer(chunks, line_end)
            start = line_end + 2
            if len(self._buffer) < start + size + 2:
                return None
            if self._buffer[start + size : start + size + 2] != b"\r\n":
                raise BadResponseError("a chunk does not end where it should")
            chunks.append(bytes(self._buffer[start : start + size]))
            self._position = start + size + 2

    def _read_trailer(self, chunks: list[bytes], line_end: int) -> Response | None:
        if self._buffer[line_end : line_end + 4] == _END:
            return self._complete(b"".join(chunks), line_end + 4)
        end = self._buffer.find(_END, line_end)
        return None if end < 0 else self._complete(b"".join(chunks), end + len(_END))

    def _complete(self, body: bytes, end: int) -> Response:
        if len(self._buffer) > end:
            raise BadResponseError("the server sent more than one answer to one request")
        assert self._head is not None
        response = Response(self._status, self._head, body, self._keeps_open)
        self._buffer = b""
        self._forget()
        return response
