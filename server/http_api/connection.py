"""A client's HTTP connection: uvicorn's protocol, with an eye on what the client takes.

Runs in the front-end. Bytes of a client flow in, ASGI calls come of them, and answers flow out,
head and body in one system call. No request has a timer: `Connections` looks at every connection
once in a while, and one that is still where it was for too long is ended. What is wrong below the
requests (no HTTP, endless headers, no end in time) is answered here, in the protocol's shape.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.http_api.body import LATE
from server.http_api.certified import CERTIFIED, certified_name
from server.http_api.corked import CorkedTransport
from server.http_api.pieces import PieceTransport

if TYPE_CHECKING:
    from server.http_api.connections import Connections

__all__ = ["Connection", "Waits"]


_log = logging.getLogger(__name__)


class Waits(enum.Enum):
    """What a connection waits for; but for the server, it may be too long."""

    IDLE = "idle"
    HEADER = "header"
    BODY = "body"
    READER = "write"
    SERVER = "server"


_SLOW = {
    Waits.HEADER: "the request's headers did not come within {} s",
    Waits.BODY: "the request's body did not come within {} s",
}
#: Headers of a request that has a body.
_BODY = {b"content-length", b"transfer-encoding"}
#: Around a header's name and value.
_HEADER_FRAME_BYTES = 4


class Connection(HttpToolsProtocol):
    """One connection.

    Args:
        connections: all of them, and their limits.
        options: uvicorn's.
    """

    def __init__(self, *, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all = connections
        self._limits = connections.limits
        self._answered = 0
        #: Upper bound of the bytes that are no body since the last that were.
        self._frame_bytes = 0
        #: Those of the last piece that came.
        self._piece_bytes = 0
        self._last = (Waits.IDLE, 0)
        self._since = connections.now
        #: The request that is being answered while others are waiting behind it.
        self._first: Any = None
        self._is_framed_again = False
        self._is_deaf = False
        #: Whether the client is to take its answer before the next request is begun.
        self._is_held_up = False
        #: What an answer is kept in until its client takes it, if the connection is encrypted.
        self._pieces: PieceTransport | None = None

    # -- what the transport and the parser say ------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a corked transport, or refuse a connection that is one too many."""
        if transport.get_extra_info("sslcontext") is not None:
            self._pieces = PieceTransport(transport)
        wire: Any = transport if self._pieces is None else self._pieces
        corked: Any = CorkedTransport(wire, self.loop)
        if name := certified_name(transport):
            self.app_state = {**self.app_state, CERTIFIED: name}
        if len(self.connections) < self._all.most:
            # Asked of every connection again and again.
            self.unsent_bytes = wire.get_write_buffer_size
            super().connection_made(corked)
            return
        self.transport = corked
        self._all.count("connections")
        self._refuse(503, "too many connections are open", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered, and the last one, that their client has gone."""
        if self._first is not None:
            self._first.disconnected = True
            self._first.message_event.set()
        self._all.unread.let_go(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; without an end of headers, or of what frames a body, it is too much."""
        if self._is_deaf:
            return
        self._piece_bytes = len(data)
        self._frame_bytes += self._piece_bytes
        self._parse(data)
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope and not cycle.more_body:
            self._frame_bytes = 0
        elif self._frame_bytes > self._limits.header_bytes and not self.transport.is_closing():
            self._refuse_headers()

    def _parse(self, data: bytes | memoryview) -> None:
        """Parse what came; whoever asks for another protocol (Upgrade) is answered in this one."""
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                    return
                except HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                    if self._is_framed_again:
                        self._frame_again()
        except HttpParserError as error:
            self._refuse_damaged(error)

    def _frame_again(self) -> None:
        """Begin the request anew that has just begun, as if it had asked for no other protocol.

        After a request that does, the parser takes a body for what the other protocol says.
        """
        self._is_framed_again = False
        head = _head(self.parser.get_method(), self.url, self.headers)
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

    def on_headers_complete(self) -> None:
        """Begin a request, unless its headers, which came at once, are too many."""
        if max(self._frame_bytes, self._piece_bytes) > self._limits.header_bytes:
            # The body that came with them is not theirs, nor is the request before it.
            frames = len(self.headers) * _HEADER_FRAME_BYTES
            texts = sum(len(name) + len(value) for name, value in self.headers)
            if len(self.url) + texts + frames > self._limits.header_bytes:
                self._refuse_headers()
                raise HttpParserError("too many headers")
            self._frame_bytes = 0
        if self.parser.should_upgrade() and any(name in _BODY for name, _ in self.headers):
            if self.parser.get_method() == b"CONNECT":
                raise HttpParserError("a tunnel with a body")
            self._is_framed_again = True
            return
        running = self.cycle
        super().on_headers_complete()
        if self.pipeline and self._first is None:
            self._first = running

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._frame_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is there as a whole."""
        cycle = self.cycle
        if not (self._is_framed_again or cycle.response_complete):
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Go on with the next request, if it is there already and the client takes its answers."""
        self._answered += 1
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.write_paused:
            self.flow.pause_reading()
            self._is_held_up = True
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._is_held_up = False
        self.flow.resume_reading()
        if self.pipeline:
            cycle, application = self.pipeline.pop()
            self._first = cycle if self.pipeline else None
            self._start_asgi_task(cycle, application)

    def pause_writing(self) -> None:
        """Note that the client is slow to take its answer; if too many are, some are ended."""
        super().pause_writing()
        if self._pieces is not None:
            self._pieces.pause()
        self._all.unread.hold(self)

    def has_several(self) -> bool:
        """Whether more than one answer waits to be sent: the next request is not begun then."""
        return False

    def end_unread(self) -> None:
        """End the connection: others need the memory that its answers take."""
        self._all.count("unread")
        self.loop.call_soon(self.transport.abort)  # this may be in the middle of a write

    def resume_writing(self) -> None:
        """Go on where that was waited for, once all has been sent."""
        if self._pieces is not None and not self._pieces.resume():
            return
        self._all.unread.let_go(self)
        super().resume_writing()
        if self._is_held_up and not self.transport.is_closing():
            self._go_on()

    def shutdown(self) -> None:
        """Answer what has come, and close; what has not come whole was not accepted."""
        self._all.hurry()
        waits = self._waits()
        if waits is Waits.HEADER or (waits is Waits.BODY and not self._has_begun):
            self._refuse(503, "the server is draining", b"retry-after: 1\r\n")
        else:
            super().shutdown()

    # -- time ---------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """End the connection if it has waited for the same thing for too long.

        Args:
            now: on the monotonic clock.
        """
        waits = self._waits()
        state = (waits, self._answered)
        if state != self._last:
            self._last, self._since = state, now
            return
        limit_s = self._all.limit_s[waits]
        if now - self._since < limit_s:
            return
        self._all.count(waits.value)
        text = _SLOW.get(waits)
        if waits is Waits.READER:
            self.transport.abort()  # what it does not read is let go of
        elif text is None or (waits is Waits.BODY and self._has_begun):
            self.transport.close()
        else:
            if waits is Waits.BODY:
                self.scope["extensions"] = {LATE: {}}
            self._refuse(408, text.format(f"{limit_s:g}"))

    def _waits(self) -> Waits:
        cycle = self.cycle
        if self.unsent_bytes() or self.transport.is_closing():
            return Waits.READER
        is_new = cycle is None or cycle.scope is not self.scope
        if cycle is not None and not cycle.response_complete:
            receives = cycle.more_body and not is_new and not self.pipeline
            return Waits.BODY if receives else Waits.SERVER
        if is_new:
            return Waits.IDLE if self.scope is None else Waits.HEADER
        return Waits.BODY if cycle.more_body else Waits.IDLE

    @property
    def _has_begun(self) -> bool:
        """Whether the last answer has."""
        return self.cycle is not None and self.cycle.response_started

    # -- refusals -----------------------------------------------------------------------------

    def _refuse_damaged(self, error: HttpParserError) -> None:
        """Refuse what is not HTTP; what was refused for another reason is so already."""
        if self._is_deaf:
            return
        # What is wrong within a callback is for us to understand.
        reason = "" if error.__context__ is not None else f": {error}"
        client = f"{self.client[0]}:{self.client[1]}" if self.client else ""
        _log.warning("what came is not HTTP%s", reason, extra={"client": client})
        self._refuse(400, f"the request is not HTTP{reason}")

    def _refuse_headers(self) -> None:
        self._all.count("header_bytes")
        limit = self._limits.header_bytes
        self._refuse(431, f"the request's headers are larger than the limit of {limit} bytes")

    def _refuse(self, status: int, message: str, more: bytes = b"") -> None:
        """Answer in the place of the application, which is told that the client has gone.

        Whole requests that came before are answered; then it is too late for this answer.
        """
        self._is_deaf = True
        if (last := self._last_whole()) is not None:
            last.keep_alive = False
            return
        body = orjson.dumps({"error": message})
        for name, value in self.server_state.default_headers:
            more += name + b": " + value + b"\r\n"
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"%bconnection: close\r\n\r\n%b"
            % (status, HTTPStatus(status).phrase.encode(), len(body), more, body)
        )
        self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _last_whole(self) -> Any:
        """The last request that came whole and waits for its answer, and for this one nobody."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return None
        if cycle.more_body and self.pipeline:  # another is being answered, this one never will be
            self.pipeline.popleft()
            cycle = self.cycle = self.pipeline[0][0] if self.pipeline else self._first
        return None if cycle.more_body or cycle.response_complete else cycle


def _head(method: bytes, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request as it came, without the wish for another protocol."""
    lines = [b"%b %b HTTP/1.1" % (method, url)]
    lines += [b"%b: %b" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"\r\n"])
