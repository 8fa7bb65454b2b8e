"""A client's HTTP connection, with an eye on what the client takes.

Runs in the front-end. Bytes of a client flow in, ASGI calls come of them, and answers flow out,
head and body in one system call. No request has a timer: `Connections` looks at every connection
once in a while, and one that is still where it was for too long is ended. What is wrong below the
requests (no HTTP, endless headers, no end in time) is answered here, in the protocol's shape.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from httptools import HttpParserError

from server.http_api.body import LATE
from server.http_api.certified import CERTIFIED, certified_name
from server.http_api.corked import CorkedTransport
from server.http_api.framing import FramedConnection
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
#: Around a header's name and value.
_HEADER_FRAME_BYTES = 4


class Connection(FramedConnection):
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
        """Nothing is unread any more."""
        self._all.unread.let_go(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; without an end of headers, or of what frames a body, it is too much."""
        if self._is_deaf:
            return
        self._piece_bytes = len(data)
        self._frame_bytes += self._piece_bytes
        try:
            self.parse(data)
        except HttpParserError as error:
            self._refuse_damaged(error)
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope and not cycle.more_body:
            self._frame_bytes = 0
        elif self._frame_bytes > self._limits.header_bytes and not self.transport.is_closing():
            self._refuse_headers()

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
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._frame_bytes = 0
        super().on_body(body)

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
        self.begin_next()

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
        if (last := self.last_whole()) is not None:
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
