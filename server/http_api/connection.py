"""One HTTP connection: bytes in, requests to the engine or the application, responses out.

Runs in the front-end. Infer requests of a known kind go straight to the engine (`fast_infer`), all
others to the ASGI application (`asgi_call`); order of responses, limits, timeouts and back-pressure
are here, and refusals of what is wrong below the requests (no HTTP, no end in time).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson
from httptools import HttpParserError
from starlette.types import ASGIApp, Scope

from server.http_api.asgi_call import AsgiCall, ClientAddress, response_head
from server.http_api.body import BODY_TIMEOUT
from server.http_api.connections import Connections, WaitReason
from server.http_api.fast_infer import FastCall, RepeatedRequest
from server.http_api.incoming import IncomingInfer
from server.http_api.request_context import CERTIFICATE_NAME, certificate_name
from server.http_api.request_parser import RequestHead, RequestParser
from server.http_api.tls_writer import TlsWriter

if TYPE_CHECKING:
    from uvicorn.server import ServerState

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

_TIMEOUTS = {
    WaitReason.HEADER: "the request's headers did not come within {} s",
    WaitReason.BODY: "the request's body did not come within {} s",
}

#: Copying less than this costs less than a write of its own.
_LARGE_BYTES = 1 << 16
#: A request that is being received, or waits for its turn.
_Call = AsgiCall | IncomingInfer


class Connection(asyncio.BufferedProtocol):
    """One connection; `certificate_name` is "" if the client has presented no certificate."""

    def __init__(
        self,
        *,
        connections: Connections,
        application: ASGIApp,
        server_state: ServerState,
        app_state: dict[str, Any],
    ) -> None:
        self._connections = connections
        self._max_header_bytes = connections.limits.header_bytes
        self._fast = connections.fast
        self._receive_buffer = connections.receive_buffer
        self._application = application
        self._state = server_state
        self._app_state = app_state
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(
            on_begin=self._begin_request,
            on_head=self._receive_head,
            on_body=self._receive_body,
            on_end=self._end_request,
        )
        self.common_headers = connections.common_headers
        self.client: ClientAddress = None
        self.certificate_name = ""
        #: The request that is being answered, and those that wait for their turn.
        self._current: _Call | FastCall | None = None
        self._waiting: deque[_Call] = deque()
        #: The request that is not complete, and whether its head is not.
        self._incoming: _Call | None = None
        self._is_in_head = False
        #: How many requests have begun in the data that was received last.
        self._begun = 0
        #: So many bytes of the incoming body will bypass the parser.
        self._missing_bytes = 0
        #: The last request, if one that equals it up to the payload need not be parsed.
        self._repeated: RepeatedRequest | None = None
        #: Upper bound of the bytes received since the last that were of a body.
        self._frame_bytes = 0
        #: Those that were received last.
        self._chunk_bytes = 0
        self._answered = 0
        self._last_state = (WaitReason.IDLE, 0)
        self._since = connections.now
        self._ignores_input = False
        self._is_reading_paused = self._is_unread = False
        #: Whether the client must read its response before the next request is begun.
        self._is_held_up = False
        self._writable: asyncio.Event | None = None
        #: Keeps what an encrypted connection does not take yet.
        self._tls_writer: TlsWriter | None = None

    # -- what the transport calls -------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Begin, or refuse the connection if there are too many."""
        if transport.get_extra_info("sslcontext") is not None:
            transport = self._tls_writer = TlsWriter(transport)
        self._transport = transport
        self.unsent_bytes = transport.get_write_buffer_size
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = (str(peer[0]), int(peer[1]))
        self.certificate_name = certificate_name(transport)
        if len(self._state.connections) < self._connections.max_connections:
            self._state.connections.add(self)  # type: ignore[arg-type]
            return
        self._connections.count("connections")
        self._refuse(503, "too many connections are open", [(b"retry-after", b"1")])

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop everything: nobody waits for a response."""
        self._state.connections.discard(self)
        self._connections.unread.let_go(self)
        self._ignores_input = True
        self._parser.close()
        self._repeated = None
        calls = [call for call in (self._current, self._incoming, *self._waiting) if call]
        self._current = self._incoming = None
        self._waiting.clear()
        for call in dict.fromkeys(calls):
            call.disconnect(cancel=True)
        if self._writable is not None:
            self._writable.set()

    def eof_received(self) -> None:
        """Close: a client that sends no more counts as gone."""

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to receive next: the body of a plain infer request goes to its own memory."""
        if not self._missing_bytes or self._ignores_input:
            return self._receive_buffer
        call = self._incoming
        if isinstance(call, IncomingInfer):
            return call.free_buffer()
        return self._receive_buffer[: self._missing_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """Handle what was received into the buffer."""
        call = self._incoming
        if self._missing_bytes and isinstance(call, IncomingInfer) and not self._ignores_input:
            self._fill(call, nbytes)
        else:
            self.data_received(bytes(self._receive_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Handle what was received."""
        if self._ignores_input:
            return
        repeated = self._repeated
        if (
            repeated is not None
            and len(data) == repeated.nbytes
            and self._current is None
            and self._incoming is None
            and not (self._is_in_head or self._is_held_up)
            and data.startswith(repeated.prefix)
            and (call := self._fast.repeat(self, repeated)) is not None
        ):
            self._current = call
            call.submit(data, repeated.start)
            return
        if self._missing_bytes:
            part, data = data[: self._missing_bytes], data[self._missing_bytes :]
            self._bypass_parser(part)
            if not data:
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parse what was received; headers, or the framing of a body, must end within a limit."""
        self._chunk_bytes = len(data)
        self._frame_bytes += self._chunk_bytes
        is_new = self._incoming is None and not self._is_in_head
        self._begun = 0
        try:
            self._parser.feed(data)
        except HttpParserError as error:
            self._refuse_malformed(error)
            return
        call = self._incoming
        if call is None:
            if not self._is_in_head:
                self._frame_bytes = 0
                current = self._current
                if is_new and self._begun == 1 and isinstance(current, FastCall):
                    self._repeated = current.as_repeated(data)
                return
        elif isinstance(call, IncomingInfer):
            has_memory = call.allocate()
            self._missing_bytes = call.missing_bytes
            self._parser.skip_body()
            if not has_memory:
                self._leave_to_application(call)
            return
        if self._frame_bytes > self._max_header_bytes and not self._transport.is_closing():
            self._refuse_headers()

    # -- what the parser calls ----------------------------------------------------------------

    def _begin_request(self) -> None:
        self._is_in_head = True
        self._begun += 1

    def _receive_head(self, head: RequestHead) -> None:
        """Begin a request, unless its headers, which were received at once, are too large."""
        if max(self._frame_bytes, self._chunk_bytes) > self._max_header_bytes:
            # What was received with them is a body, or another request.
            if head.size_bytes > self._max_header_bytes:
                self._refuse_headers()
                raise HttpParserError("too many headers")
            self._frame_bytes = 0
        self._is_in_head = False
        call: _Call | None = self._fast.receive(self, head)
        if call is None:
            if (problem := head.problem()) is not None:
                self._refuse(*problem)
                raise HttpParserError(problem[1])
            call = AsgiCall(head, self, is_infer=self._fast.is_infer(head))
        self._incoming = call
        if self._current is None and not self._is_held_up:
            self._begin(call)
        else:
            self._waiting.append(call)
            self.pause_reading()

    def _receive_body(self, data: bytes) -> None:
        self._frame_bytes = 0
        if self._incoming is not None:
            self._incoming.feed(data)

    def _end_request(self) -> None:
        call, self._incoming = self._incoming, None
        if call is not None:
            call.end_body()
            if call is self._current and isinstance(call, IncomingInfer):
                self._begin_infer(call)

    def _bypass_parser(self, data: bytes) -> None:
        """Add to a body of known length."""
        call = self._incoming
        if isinstance(call, IncomingInfer):
            call.free_buffer()[: len(data)] = data
            self._fill(call, len(data))
        elif call is not None:
            call.feed(data)
            self._count_bypassed(len(data))

    def _fill(self, call: IncomingInfer, nbytes: int) -> None:
        """Note what was received into a body's own memory."""
        if not call.fill(nbytes):
            self._leave_to_application(call)
        self._count_bypassed(nbytes)

    def _leave_to_application(self, call: IncomingInfer) -> None:
        """Let the application refuse a request for whose body others leave no memory."""
        asgi_call = self._incoming = call.as_asgi(self)
        if call is self._current:
            self._begin(asgi_call)
        else:
            self._waiting[self._waiting.index(call)] = asgi_call

    def _count_bypassed(self, nbytes: int) -> None:
        self._missing_bytes -= nbytes
        if not self._missing_bytes:
            self._end_request()

    # -- requests in their order --------------------------------------------------------------

    def _begin(self, call: _Call) -> None:
        """Answer a request, whose turn it is, once it is complete."""
        self._current = call
        if isinstance(call, AsgiCall):
            scope = self._scope(call.head, call.extensions)
            task = call.start(self._application, scope, self._loop)
            self._state.tasks.add(task)
            task.add_done_callback(self._state.tasks.discard)
        elif not call.more_body:
            self._begin_infer(call)

    def _begin_infer(self, call: IncomingInfer) -> None:
        """Answer an infer request, which is complete and whose turn it is."""
        fast = self._fast.begin(self, call)
        if fast is None:
            self._begin(call.as_asgi(self))
            return
        self._current = fast
        fast.submit(call.body)

    def _scope(self, head: RequestHead, extensions: dict[str, Any]) -> Scope:
        sockname = self._transport.get_extra_info("sockname")
        state = {**self._app_state, CERTIFICATE_NAME: self.certificate_name}
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.http_version,
            "server": sockname[:2] if isinstance(sockname, tuple) else None,
            "client": self.client,
            "scheme": "http" if self._tls_writer is None else "https",
            "method": head.method.decode("ascii"),
            "root_path": "",
            "path": head.path,
            "raw_path": head.url.partition(b"?")[0],
            "query_string": head.query,
            "headers": head.headers,
            "state": state,
            "extensions": extensions,
        }

    def write_response(self, data: bytes) -> None:
        """Send some of a response."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def end_response(self, call: AsgiCall | FastCall) -> None:
        """Continue with the next request, if the client reads its responses."""
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
            self.pause_reading()
            self._is_held_up = True
        elif self._is_reading_paused or self._waiting:
            self._continue()

    def _continue(self) -> None:
        self._is_held_up = False
        self._resume_reading()
        if self._waiting:
            self._begin(self._waiting.popleft())

    def send_answer(self, call: FastCall, head: bytes, values: bytes | bytearray) -> None:
        """Send the whole response to a request that went to the engine."""
        if not self._transport.is_closing():
            if len(values) < _LARGE_BYTES:
                self._transport.write(head + values)
            else:
                self._transport.writelines((head, values))
        self.end_response(call)

    # -- back-pressure ------------------------------------------------------------------------

    async def wait_writable(self) -> None:
        """Wait until the client has received enough of what was sent."""
        while self._is_unread and not self._transport.is_closing():
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        if not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def resume_reading_for(self, call: AsgiCall) -> None:
        """Read on, if it is this call's turn."""
        if call is self._current:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Note that the client is slow to read; if too many are, some are ended."""
        self._is_unread = True
        if self._tls_writer is not None:
            self._tls_writer.pause()
        self._connections.unread.hold(self)

    def resume_writing(self) -> None:
        """Continue what waits for the client, once everything is sent."""
        if self._tls_writer is not None and not self._tls_writer.resume():
            return
        self._connections.unread.let_go(self)
        self._is_unread = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        if self._is_held_up and not self._transport.is_closing():
            self._continue()

    def has_several(self) -> bool:
        """Whether several responses are unsent: never, as the next request is not begun then."""
        return False

    def end_unread(self) -> None:
        """End the connection: others need the memory that its responses take."""
        self._connections.count("unread")
        self._loop.call_soon(self._transport.abort)  # this may be in the middle of a write

    def shutdown(self) -> None:
        """Answer complete requests, and close; one that is incomplete was not accepted."""
        self._connections.shorten_write_limit()
        reason = self._wait_reason()
        if reason is WaitReason.HEADER or (reason is WaitReason.BODY and not self._has_responded):
            self._refuse(503, "the server is draining", [(b"retry-after", b"1")])
            return
        last = self._waiting[-1] if self._waiting else self._current
        if last is None:
            self._transport.close()
        else:
            last.keep_alive = False

    # -- time ---------------------------------------------------------------------------------

    def check_time_limit(self, now: float) -> None:
        """End the connection if at `now`, monotonic, it has waited for one thing for too long."""
        reason = self._wait_reason()
        state = (reason, self._answered)
        if state != self._last_state:
            self._last_state, self._since = state, now
            return
        limit_s = self._connections.limit_s[reason]
        if now - self._since < limit_s:
            return
        self._connections.count(reason.value)
        text = _TIMEOUTS.get(reason)
        if reason is WaitReason.WRITE:
            self._transport.abort()  # what the client does not read is dropped
        elif text is None or (reason is WaitReason.BODY and self._has_responded):
            self._transport.close()
        else:
            call = self._incoming
            if isinstance(call, IncomingInfer):
                call.is_timed_out = True
            elif isinstance(call, AsgiCall):
                call.extensions[BODY_TIMEOUT] = {}
            self._refuse(408, text.format(f"{limit_s:g}"))

    def _wait_reason(self) -> WaitReason:
        if self.unsent_bytes() or self._transport.is_closing():
            return WaitReason.WRITE
        if self._current is not None:
            return WaitReason.BODY if self._current is self._incoming else WaitReason.SERVER
        if self._is_in_head:
            return WaitReason.HEADER
        return WaitReason.IDLE if self._incoming is None else WaitReason.BODY

    @property
    def _has_responded(self) -> bool:
        """Whether the response to the incomplete request has begun."""
        call = self._incoming
        return isinstance(call, AsgiCall) and (call.response_started or call.response_complete)

    # -- refusals -----------------------------------------------------------------------------

    def _refuse_malformed(self, error: HttpParserError) -> None:
        """Refuse what is not HTTP, unless it was refused for another reason."""
        if self._ignores_input:
            return
        # An error within a callback says nothing to the client.
        reason = "" if error.__context__ is not None else f": {error}"
        client = f"{self.client[0]}:{self.client[1]}" if self.client else ""
        _log.warning("received something that is not HTTP%s", reason, extra={"client": client})
        self._refuse(400, f"the request is not HTTP{reason}")

    def _refuse_headers(self) -> None:
        self._connections.count("header_bytes")
        limit = self._max_header_bytes
        self._refuse(431, f"the request's headers are larger than the limit of {limit} bytes")

    def _refuse(
        self, status: int, message: str, more: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Respond instead of the application, for which the client is disconnected; then close.

        While complete requests are unanswered, they are answered instead, and the last closes.
        """
        self._ignores_input = True
        if (last := self._last_complete()) is not None:
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

    def _last_complete(self) -> _Call | FastCall | None:
        """The last complete request that is not answered; an incomplete one is dropped."""
        if self._waiting and self._waiting[-1] is self._incoming:
            self._waiting.pop()
        if self._waiting:
            return self._waiting[-1]
        return None if self._current is self._incoming else self._current
