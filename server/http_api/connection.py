"""A client's HTTP connection: bytes in, requests to the engine or the application, answers out.

Runs in the front-end. Infer requests whose kind is known go straight to the engine (`fast_infer`),
everything else goes to the ASGI application (`asgi_call`); both ways share what is here: the order
of answers, limits, timeouts, refusals and back-pressure. No request has a timer: `Connections`
looks at every connection once in a while, and one that is still where it was for too long is ended.
What is wrong below the requests (no HTTP, endless headers, no end in time) is answered here, in the
protocol's shape.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson
from httptools import HttpParserError

from server.http_api.asgi_call import Application, AsgiCall, response_head
from server.http_api.body import LATE
from server.http_api.certified import CERTIFIED, certified_name
from server.http_api.fast_infer import FastCall, Repeat
from server.http_api.framing import Head, RequestParser
from server.http_api.incoming import Client, Incoming
from server.http_api.pieces import PieceTransport

if TYPE_CHECKING:
    from uvicorn.server import ServerState

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

#: To copy less than this costs less than to send it by itself.
_LARGE_BYTES = 1 << 16
#: A request that is being received, or waits for its turn.
_Call = AsgiCall | Incoming


class Connection(asyncio.BufferedProtocol):
    """One connection.

    Args:
        connections: all of them, and their limits.
        application: answers what does not go to the engine.
        server_state: uvicorn's: its connections and tasks.
        app_state: what every scope has.
    """

    def __init__(
        self,
        *,
        connections: Connections,
        application: Application,
        server_state: ServerState,
        app_state: dict[str, Any],
    ) -> None:
        self._all = connections
        self._limits = connections.limits
        self._fast = connections.fast
        self._scratch = connections.scratch
        self._application = application
        self._state = server_state
        self._app_state = app_state
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(self)
        self.common_headers = connections.common_headers
        self.client: Client = None
        self.certified = ""
        #: The request that is being answered, and those that wait for their turn.
        self._current: _Call | FastCall | None = None
        self._waiting: deque[_Call] = deque()
        #: The request whose message is not there as a whole, and whether its head is not.
        self._incoming: _Call | None = None
        self._is_in_head = False
        #: How many requests have begun in the last piece that came.
        self._begun = 0
        #: So many bytes of its body will come past the parser.
        self._left = 0
        #: The last request, if one that is like it, byte for byte, may take the short way.
        self._repeat: Repeat | None = None
        #: Upper bound of the bytes that are no body since the last that were.
        self._frame_bytes = 0
        #: Those of the last piece that came.
        self._piece_bytes = 0
        self._answered = 0
        self._last = (Waits.IDLE, 0)
        self._since = connections.now
        self._is_deaf = False
        self._is_paused = self._is_unread = False
        #: Whether the client is to take its answer before the next request is begun.
        self._is_held_up = False
        self._writable: asyncio.Event | None = None
        #: What an answer is kept in until its client takes it, if the connection is encrypted.
        self._pieces: PieceTransport | None = None

    # -- what the transport says --------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Begin, or refuse a connection that is one too many."""
        if transport.get_extra_info("sslcontext") is not None:
            transport = self._pieces = PieceTransport(transport)
        self._transport = transport
        self.unsent_bytes = transport.get_write_buffer_size
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = (str(peer[0]), int(peer[1]))
        self.certified = certified_name(transport)
        if len(self._state.connections) < self._all.most:
            self._state.connections.add(self)  # type: ignore[arg-type]
            return
        self._all.count("connections")
        self._refuse(503, "too many connections are open", [(b"retry-after", b"1")])

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is unread any more, and nobody waits for an answer."""
        self._state.connections.discard(self)
        self._all.unread.let_go(self)
        self._is_deaf = True
        self._parser.close()
        self._repeat = None
        calls = [call for call in (self._current, self._incoming, *self._waiting) if call]
        self._current = self._incoming = None
        self._waiting.clear()
        for call in dict.fromkeys(calls):
            call.disconnect(cancel=True)
        if self._writable is not None:
            self._writable.set()

    def eof_received(self) -> None:
        """A client that says no more counts as gone."""

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to put what comes next: a body that is known in length goes to its place."""
        if not self._left or self._is_deaf:
            return self._scratch
        call = self._incoming
        return call.free() if isinstance(call, Incoming) else self._scratch[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """So much has come."""
        call = self._incoming
        if self._left and isinstance(call, Incoming) and not self._is_deaf:
            self._took(call, nbytes)
        else:
            self.data_received(bytes(self._scratch[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take what came, wherever it lies."""
        if self._is_deaf:
            return
        repeat = self._repeat
        if (
            repeat is not None
            and len(data) == repeat.nbytes
            and self._current is None
            and self._incoming is None
            and not (self._is_in_head or self._is_held_up)
            and data.startswith(repeat.prefix)
            and (call := self._fast.repeat(self, repeat)) is not None
        ):
            self._current = call
            call.submit(data, repeat.start)
            return
        if self._left:
            part, data = data[: self._left], data[self._left :]
            self._take_direct(part)
            if not data:
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parse what came; without an end of headers, or of what frames a body, it is too much."""
        self._piece_bytes = len(data)
        self._frame_bytes += self._piece_bytes
        is_new = self._incoming is None and not self._is_in_head
        self._begun = 0
        try:
            self._parser.feed(data)
        except HttpParserError as error:
            self._refuse_damaged(error)
            return
        call = self._incoming
        if call is None:
            if not self._is_in_head:
                self._frame_bytes = 0
                current = self._current
                if is_new and self._begun == 1 and isinstance(current, FastCall):
                    self._repeat = current.repeat(data)
                return
        elif isinstance(call, Incoming):
            may_stay = call.expect_rest()
            self._left = call.left
            self._parser.skip_body()
            if not may_stay:
                self._leave_to_application(call)
            return
        if self._frame_bytes > self._limits.header_bytes and not self._transport.is_closing():
            self._refuse_headers()

    # -- what the parser says -----------------------------------------------------------------

    def begin_message(self) -> None:
        """A request begins."""
        self._is_in_head = True
        self._begun += 1

    def take_head(self, head: Head) -> None:
        """Begin a request, unless its headers, which came at once, are too many."""
        if max(self._frame_bytes, self._piece_bytes) > self._limits.header_bytes:
            # The body that came with them is not theirs, nor is the request before it.
            if head.size > self._limits.header_bytes:
                self._refuse_headers()
                raise HttpParserError("too many headers")
            self._frame_bytes = 0
        self._is_in_head = False
        call: _Call | None = self._fast.receive(self, head)
        if call is None:
            call = AsgiCall(head, self, is_infer=self._fast.is_infer(head))
        self._incoming = call
        if self._current is None and not self._is_held_up:
            self._begin(call)
        else:
            self._waiting.append(call)
            self._pause_reading()

    def take_body(self, data: bytes) -> None:
        """Some of a body is there."""
        self._frame_bytes = 0
        if self._incoming is not None:
            self._incoming.feed(data)

    def end_message(self) -> None:
        """A request is there as a whole."""
        call, self._incoming = self._incoming, None
        if call is not None:
            call.end_body()
            if call is self._current and isinstance(call, Incoming):
                self._begin_infer(call)

    def _take_direct(self, data: bytes) -> None:
        """Some of a body of known length is there, which the parser does not see."""
        call = self._incoming
        if isinstance(call, Incoming):
            call.free()[: len(data)] = data
            self._took(call, len(data))
        elif call is not None:
            call.feed(data)
            self._count_direct(len(data))

    def _took(self, call: Incoming, nbytes: int) -> None:
        """Count what has come of a body into its place."""
        if not call.took(nbytes):
            self._leave_to_application(call)
        self._count_direct(nbytes)

    def _leave_to_application(self, call: Incoming) -> None:
        """Others' bodies leave this one no memory, which is for the application to say."""
        further = self._incoming = call.as_asgi(self)
        if call is self._current:
            self._begin(further)
        else:
            self._waiting[self._waiting.index(call)] = further

    def _count_direct(self, nbytes: int) -> None:
        self._left -= nbytes
        if not self._left:
            self.end_message()

    # -- requests in their order --------------------------------------------------------------

    def _begin(self, call: _Call) -> None:
        """It is a request's turn."""
        self._current = call
        if isinstance(call, AsgiCall):
            scope = self._scope(call.head, call.extensions)
            task = call.start(self._application, scope, self._loop)
            self._state.tasks.add(task)
            task.add_done_callback(self._state.tasks.discard)
        elif not call.more_body:
            self._begin_infer(call)

    def _begin_infer(self, call: Incoming) -> None:
        """An infer request is there as a whole, and it is its turn."""
        fast = self._fast.begin(self, call)
        if fast is None:
            self._begin(call.as_asgi(self))
            return
        self._current = fast
        fast.submit(call.body)

    def _scope(self, head: Head, extensions: dict[str, Any]) -> dict[str, Any]:
        sockname = self._transport.get_extra_info("sockname")
        state = {**self._app_state, CERTIFIED: self.certified}
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.http_version,
            "server": sockname[:2] if isinstance(sockname, tuple) else None,
            "client": self.client,
            "scheme": "http" if self._pieces is None else "https",
            "method": head.method.decode("ascii"),
            "root_path": "",
            "path": head.path,
            "raw_path": head.url.partition(b"?")[0],
            "query_string": head.query,
            "headers": head.headers,
            "state": state,
            "extensions": extensions,
        }

    def write_response(self, call: AsgiCall, data: bytes) -> None:
        """Send some of a call's response."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def end_response(self, call: AsgiCall | FastCall) -> None:
        """Go on with the next request, if it is there already and the client takes its answers."""
        if call is not self._current:
            return
        self._current = None
        self._answered += 1
        self._state.total_requests += 1
        if self._transport.is_closing():
            return
        if not call.keep_alive:
            self._transport.close()
        elif self._is_unread:
            self._pause_reading()
            self._is_held_up = True
        elif self._is_paused or self._waiting:
            self._go_on()

    def _go_on(self) -> None:
        self._is_held_up = False
        self._resume_reading()
        if self._waiting:
            self._begin(self._waiting.popleft())

    def answer(self, call: FastCall, head: bytes, values: bytes | bytearray) -> None:
        """Send the whole answer of a request that went to the engine."""
        if not self._transport.is_closing():
            if len(values) < _LARGE_BYTES:
                self._transport.write(head + values)
            else:
                self._transport.writelines((head, values))
        self.end_response(call)

    # -- back-pressure ------------------------------------------------------------------------

    async def wait_writable(self) -> None:
        """Wait until the client has taken enough of what it was sent."""
        while self._is_unread and not self._transport.is_closing():
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    def pause_body(self) -> None:
        """Read nothing more for now."""
        self._pause_reading()

    def resume_body(self, call: AsgiCall) -> None:
        """Read on, if that is what the call waits for."""
        if call is self._current:
            self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Note that the client is slow to take its answer; if too many are, some are ended."""
        self._is_unread = True
        if self._pieces is not None:
            self._pieces.pause()
        self._all.unread.hold(self)

    def resume_writing(self) -> None:
        """Go on where that was waited for, once all has been sent."""
        if self._pieces is not None and not self._pieces.resume():
            return
        self._all.unread.let_go(self)
        self._is_unread = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        if self._is_held_up and not self._transport.is_closing():
            self._go_on()

    def has_several(self) -> bool:
        """Whether more than one answer waits to be sent: the next request is not begun then."""
        return False

    def end_unread(self) -> None:
        """End the connection: others need the memory that its answers take."""
        self._all.count("unread")
        self._loop.call_soon(self._transport.abort)  # this may be in the middle of a write

    def shutdown(self) -> None:
        """Answer what has come, and close; what has not come whole was not accepted."""
        self._all.hurry()
        waits = self._waits()
        if waits is Waits.HEADER or (waits is Waits.BODY and not self._has_begun):
            self._refuse(503, "the server is draining", [(b"retry-after", b"1")])
            return
        last = self._waiting[-1] if self._waiting else self._current
        if last is None:
            self._transport.close()
        else:
            last.keep_alive = False

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
            self._transport.abort()  # what it does not read is let go of
        elif text is None or (waits is Waits.BODY and self._has_begun):
            self._transport.close()
        else:
            call = self._incoming
            if isinstance(call, Incoming):
                call.is_late = True
            elif isinstance(call, AsgiCall):
                call.extensions[LATE] = {}
            self._refuse(408, text.format(f"{limit_s:g}"))

    def _waits(self) -> Waits:
        if self.unsent_bytes() or self._transport.is_closing():
            return Waits.READER
        if self._current is not None:
            return Waits.BODY if self._current is self._incoming else Waits.SERVER
        if self._is_in_head:
            return Waits.HEADER
        return Waits.IDLE if self._incoming is None else Waits.BODY

    @property
    def _has_begun(self) -> bool:
        """Whether the answer to a request that has not come whole has begun."""
        call = self._incoming
        return isinstance(call, AsgiCall) and (call.response_started or call.response_complete)

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

    def _refuse(
        self, status: int, message: str, more: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Answer in the place of the application, which is told that the client has gone.

        Whole requests that came before are answered; then it is too late for this answer.
        """
        self._is_deaf = True
        if (last := self._last_whole()) is not None:
            last.keep_alive = False
            return
        body = orjson.dumps({"error": message})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *(more or ()),
            (b"connection", b"close"),
        ]
        self._transport.write(response_head(status, self.common_headers(), headers) + body)
        self._transport.close()
        if self._current is not None:
            self._current.disconnect()

    def _last_whole(self) -> _Call | FastCall | None:
        """The last request that came whole and waits for its answer.

        What came after it is damaged: a request of which only a part is there is given up.
        """
        if self._waiting and self._waiting[-1] is self._incoming:
            self._waiting.pop()
        if self._waiting:
            return self._waiting[-1]
        return None if self._current is self._incoming else self._current
