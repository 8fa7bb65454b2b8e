"""The open calls: how many there may be, how long they wait for clients, what memory they hold.

Runs in the front-end's event loop, between gRPC core and the methods. A call's message is received
only once the call is admitted. A periodic sweep fails calls whose message does not arrive and ends
connections whose client does not read a response: so calls need no timers of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget
from server.errors import InvalidRequest, QueueFull, RequestError, RequestTimeout
from server.grpc_api.authentication import admit_call
from server.grpc_api.core import ServerCall, end_connections
from server.grpc_api.status import echoed_request_id, fail
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses
from server.security.authentication import Authenticator

__all__ = ["Calls", "UnaryCall", "UnsentResponses"]

_log = logging.getLogger(__name__)
_MAX_SWEEP_INTERVAL_S = 2.0
_SWEEPS_PER_LIMIT = 4


class UnaryCall:
    """A call with one message and one response, from its beginning until that is written.

    It ends with `succeed`, `fail` or `release`, whichever comes first; one of them must also follow
    `on_cancelled`, which is called if the client goes before there is a response. `handler` gets
    this and the message, once that is received.
    """

    __slots__ = (
        "_calls",
        "_client",
        "_handler",
        "_held_bytes",
        "_is_released",
        "_unsent",
        "call",
        "on_cancelled",
    )

    def __init__(self, calls: Calls, call: ServerCall, method: str, handler: Handler) -> None:
        self.call = call
        self.on_cancelled: Callable[[], object] | None = None
        self._calls = calls
        self._client = ""
        self._handler = handler
        self._is_released = False
        self._held_bytes = 0
        self._unsent: UnsentResponses | None = None
        calls.open += 1
        call.trailing = echoed_request_id(call.metadata)
        call.on_cancelled = self._cancel
        try:
            self._client = admit_call(calls.authenticator, method, call)
            calls.check_limit()
        except RequestError as error:
            self.fail(error)
            return
        calls.receiving[self] = time.monotonic()
        call.receive(self._received)

    def succeed(self, response: bytes) -> None:
        """Send the response."""
        self.release()
        call, calls = self.call, self._calls
        if call.is_cancelled:
            return
        calls.writing[call] = time.monotonic()
        if len(response) >= COUNTED_BYTES:
            self._unsent = calls.unsent_responses(call)
            self._unsent.add(len(response))
        call.respond(response, self._written)

    def fail(self, error: Exception) -> None:
        """Send the status of an error."""
        self.release()
        fail(self.call, error)

    def release(self) -> None:
        """Release the call's share of all limits; calling it again does nothing."""
        if self._is_released:
            return
        self._is_released = True
        self.on_cancelled = None
        calls = self._calls
        calls.open -= 1
        if self._held_bytes:
            calls.budget.release(self._held_bytes)
        if self._client:
            calls.authenticator.limiter.release(self._client)

    def _received(self, message: bytes | None) -> None:
        if self._calls.receiving.pop(self, None) is None:
            return  # too late: the call has failed or the client has gone
        try:
            if message is None:
                raise InvalidRequest("the call ends without a message")
            if len(message) >= COUNTED_BYTES:
                self._calls.hold_memory(len(message))
                self._held_bytes = len(message)
            self._handler(self, message)
        except Exception as error:
            self.fail(error)

    def _cancel(self) -> None:
        if self._calls.receiving.pop(self, None) is not None:
            self.release()
        elif self.on_cancelled is not None:
            self.on_cancelled()

    def _written(self, _: object) -> None:
        del self._calls.writing[self.call]
        if self._unsent is not None:
            self._unsent.close()


Handler = Callable[[UnaryCall, bytes], None]


class UnsentResponses:
    """The responses of one call that are not sent yet; `UnreadResponses` may end its connection."""

    __slots__ = ("_count", "_is_closed", "_nbytes", "_peer", "_unread")

    def __init__(self, unread: UnreadResponses, peer: Callable[[], str]) -> None:
        self._unread = unread
        self._peer = peer
        self._nbytes = self._count = 0
        self._is_closed = False

    def add(self, nbytes: int) -> None:
        """Count a response that is ready."""
        self._nbytes += nbytes
        self._count += 1
        if not self._is_closed:
            self._unread.hold(self)

    def sent(self, nbytes: int) -> None:
        """Count a response as sent."""
        self._nbytes -= nbytes
        self._count -= 1
        if not self._count:
            self._unread.let_go(self)

    def close(self) -> None:
        """The call is over."""
        self._is_closed = True
        self._unread.let_go(self)

    def unsent_bytes(self) -> int:
        """How many bytes are not sent yet."""
        return self._nbytes

    def has_several(self) -> bool:
        """Whether they are more than one response."""
        return self._count > 1

    def end_unread(self) -> None:
        """End the connection, to free memory for others."""
        self._is_closed = True
        end_connections({self._peer()})


class Calls:
    """The open calls of all connections.

    `on_refused` is called with the time at which a call began and why its message was not read.

    Attributes:
        open: calls that have no response yet, streams included.
        streams: open streams: at most half of the limit, because an idle stream is legitimate, and
            unary calls must get through beside them.
        receiving: calls whose message has not arrived, and since when.
        writing: calls with a response that is not written, and since when.
    """

    def __init__(
        self,
        limits: ClientLimits,
        budget: MemoryBudget,
        unread: UnreadResponses,
        authenticator: Authenticator,
        on_refused: Callable[[float, BaseException], None],
    ) -> None:
        self.open = self.streams = 0
        self.receiving: dict[UnaryCall, float] = {}
        self.writing: dict[ServerCall, float] = {}
        self.budget = budget
        self.authenticator = authenticator
        self._limits = limits
        self._unread = unread
        self._on_refused = on_refused

    def stream(self, run: Callable[[ServerCall], Awaitable[None]], call: ServerCall) -> None:
        """Begin a call with many messages; `run` sends the status unless it raises."""
        task = asyncio.get_running_loop().create_task(self._run(run, call))
        call.on_cancelled = task.cancel

    async def _run(self, run: Callable[[ServerCall], Awaitable[None]], call: ServerCall) -> None:
        self.open += 1
        self.streams += 1
        call.trailing = echoed_request_id(call.metadata)
        try:
            self.check_limit(is_stream=True)
            await run(call)
        except Exception as error:
            fail(call, error)
        finally:
            self.open -= 1
            self.streams -= 1

    def check_limit(self, *, is_stream: bool = False) -> None:
        """Raise `QueueFull` if too many calls are open, the new one included."""
        most = self._limits.calls
        if self.open + len(self.writing) > most or (is_stream and self.streams > most // 2):
            error = QueueFull("too many calls are open", reason="calls")
            self._on_refused(time.monotonic(), error)
            raise error

    def hold_memory(self, nbytes: int) -> None:
        """Charge a message to the budget; raises `QueueFull` if that is exhausted."""
        try:
            self.budget.reserve(nbytes)
        except QueueFull as error:
            self._on_refused(time.monotonic(), error)
            raise

    @contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """Charge a message to the budget for the length of a block; raises as `hold_memory`."""
        if nbytes < COUNTED_BYTES:
            yield
            return
        self.hold_memory(nbytes)
        try:
            yield
        finally:
            self.budget.release(nbytes)

    async def write(self, response: bytes, call: ServerCall) -> None:
        """Write a response to a stream."""
        self.writing[call] = time.monotonic()
        try:
            await call.write(response)
        finally:
            del self.writing[call]

    def unsent_responses(self, call: ServerCall) -> UnsentResponses:
        """A counter of a call's responses that are not sent yet."""
        return UnsentResponses(self._unread, call.peer)

    async def sweep(self) -> None:
        """Forever end what waits too long for its client."""
        limits = self._limits
        interval_s = min(limits.body_s, limits.write_s) / _SWEEPS_PER_LIMIT
        while True:
            await asyncio.sleep(min(_MAX_SWEEP_INTERVAL_S, interval_s))
            try:
                self._sweep(time.monotonic())
            except Exception:  # the next sweep may succeed
                _log.exception("a sweep over the open calls failed")

    def _sweep(self, now: float) -> None:
        body_s, write_s = self._limits.body_s, self._limits.write_s
        for unary, began in list(self.receiving.items()):
            if now - began > body_s:
                del self.receiving[unary]
                late = RequestTimeout(f"the message did not come within {body_s:g} s")
                self._on_refused(began, late)
                unary.fail(late)
        slow = {call.peer() for call, began in self.writing.items() if now - began > write_s}
        if slow:
            end_connections(slow)
