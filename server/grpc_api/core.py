"""gRPC core's server under the event loop: calls flow in, bytes and statuses out.

Runs in the front-end; the only module that knows gRPC's completion queue. Every operation on a call
(a message is there, an answer is written, the client has gone) completes with an event::

    gRPC's threads --events--> completion queue --first--> a thread that waits --wakes--+
                                      |                                                 v
                                      +---------------all others--------------> the event loop

The thread only waits for the first event; the event loop takes that one and all others that are
there, and lets the thread wait again. So a turn of the loop takes in whatever has come, and the
two never contend for the interpreter lock. An event's tag is the function that is called with it.

`grpc.aio` stands on the same queue, but makes two tasks and five futures of a call, and takes in
one call per turn. What is used here of `cygrpc` is what grpcio's own servers use; it is no
documented interface (see docs/decisions/0006).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from grpc._cython import cygrpc

__all__ = ["Call", "CoreServer", "Metadata"]

_log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, Any], ...]
Event = Any

#: So many calls can come in one turn of the event loop; more wait in gRPC.
_AWAITED_CALLS = 64
#: After so many events others in the event loop have their turn.
_EVENTS_AT_ONCE = 256
#: A deadline that is further away is none.
_FOR_EVER_S = 1e9
_NO_FLAGS = 0


class Call:
    """One call, from its headers to its status.

    Attributes:
        path: of its method, as it came.
        metadata: that came with it.
        trailing: metadata to end it with.
        on_cancelled: called if it ends before its status is sent: the client has gone, or its
            deadline has passed.
        is_cancelled: whether that has happened.
        is_over: whether its status was sent.
    """

    __slots__ = (
        "_call",
        "_deadline",
        "_has_begun",
        "_on_message",
        "is_cancelled",
        "is_over",
        "metadata",
        "on_cancelled",
        "path",
        "trailing",
    )

    def __init__(self, event: Event) -> None:
        self.path: bytes = event.call_details.method
        self.metadata: Metadata = event.invocation_metadata
        self.trailing: Metadata = ()
        self.on_cancelled: Callable[[], object] | None = None
        self.is_cancelled = self.is_over = False
        self._call = event.call
        # gRPC tells a deadline by the wall clock, which can jump: not for longer than now.
        left_s: float = event.call_details.deadline - time.time()
        self._deadline = time.monotonic() + left_s if left_s < _FOR_EVER_S else None
        self._has_begun = False
        self._on_message: Callable[[bytes | None], object] | None = None
        self._start((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    # -- about it -----------------------------------------------------------------------------

    def peer(self) -> str:
        """The client's address, like ``ipv4:127.0.0.1:50000`` or ``ipv6:%5B::1%5D:50000``."""
        peer: bytes = self._call.peer()
        return peer.decode()

    def certified_names(self) -> Sequence[bytes]:
        """Whom the client's certificate names, if it has shown one."""
        named = cygrpc.auth_context(self._call) or {}
        return named.get(b"x509_common_name") or named.get(b"x509_subject_alternative_name") or ()

    def time_remaining(self) -> float | None:
        """Seconds until its deadline, None if it has none."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    # -- messages -----------------------------------------------------------------------------

    def receive(self, on_message: Callable[[bytes | None], object]) -> None:
        """Have the next message received; None stands for the end. One at a time."""
        self._on_message = on_message
        self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    async def messages(self) -> AsyncIterator[bytes]:
        """All messages."""
        loop = asyncio.get_running_loop()
        while True:
            message: asyncio.Future[bytes | None] = loop.create_future()
            self.receive(partial(_set_result, message))
            data = await message
            if data is None:
                return
            yield data

    async def write(self, message: bytes) -> None:
        """Send one of several answers; returns when it is written. One at a time."""
        written: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        operations = (cygrpc.SendMessageOperation(message, _NO_FLAGS),)
        self._send(operations, partial(_set_result, written))
        await written

    def answer(self, message: bytes, on_written: Callable[[Event], object]) -> None:
        """Send the only answer, and the status OK.

        Args:
            message: the answer.
            on_written: called when it is written, or never will be.
        """
        self.is_over = True
        status = cygrpc.SendStatusFromServerOperation(
            self.trailing, cygrpc.StatusCode.ok, b"", _NO_FLAGS
        )
        self._send((cygrpc.SendMessageOperation(message, _NO_FLAGS), status), on_written)

    def end(self, code: int = cygrpc.StatusCode.ok, text: str = "") -> None:
        """Send the status; what was written before is not lost."""
        if self.is_over or self.is_cancelled:
            return
        self.is_over = True
        status = cygrpc.SendStatusFromServerOperation(self.trailing, code, text.encode(), _NO_FLAGS)
        self._send((status,), _ignore)

    def _send(self, operations: tuple[Any, ...], tag: Callable[[Event], object]) -> None:
        if not self._has_begun:
            self._has_begun = True
            operations = (cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS), *operations)
        self._start(operations, tag)

    def _start(self, operations: tuple[Any, ...], tag: Callable[[Event], object]) -> None:
        error = self._call.start_server_batch(operations, tag)
        assert error == cygrpc.CallError.ok, f"gRPC refuses an operation: {error}"

    def _received(self, event: Event) -> None:
        on_message, self._on_message = self._on_message, None
        assert on_message is not None
        on_message(event.batch_operations[0].message())

    def _closed(self, event: Event) -> None:
        on_cancelled, self.on_cancelled = self.on_cancelled, None
        if not self.is_over and event.batch_operations[0].cancelled():
            self.is_cancelled = True
            if on_cancelled is not None:
                on_cancelled()


class CoreServer:
    """A server of gRPC core on one port; made and used in the running event loop.

    Args:
        address: ``HOST:PORT``.
        credentials: `grpc.ServerCredentials` of TLS, None for no encryption.
        options: gRPC's channel arguments.
        on_call: called with each call that comes.

    Attributes:
        port: where it listens.

    Raises:
        OSError: if the port can't be listened on.
    """

    def __init__(
        self,
        address: str,
        credentials: Any,
        options: Sequence[tuple[str, int]],
        on_call: Callable[[Call], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_call = on_call
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)
        secured = () if credentials is None else (credentials._credentials,)
        self.port: int = self._server.add_http2_port(address.encode(), *secured)
        if not self.port:
            raise OSError(f"gRPC can't listen on {address}")
        self._is_stopping = self._is_over = False
        self._may_wait = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._wait, name="grpc events", daemon=True)

    def start(self) -> None:
        """Take calls."""
        self._server.start()
        for _ in range(_AWAITED_CALLS):
            self._await_call()
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, and wait until the others have ended; cancel them after a while."""
        self._is_stopping = True
        ended: asyncio.Future[None] = self._loop.create_future()
        self._server.shutdown(self._queue, lambda _: ended.set_result(None))
        try:
            await asyncio.wait_for(asyncio.shield(ended), grace_s)
        except TimeoutError:
            self._server.cancel_all_calls()
            await ended
        self._server.destroy()
        self._queue.shutdown()
        await asyncio.to_thread(self._thread.join)

    def _await_call(self) -> None:
        self._server.request_call(self._queue, self._queue, self._take)

    def _take(self, event: Event) -> None:
        if not event.success:
            return  # none will come: the server stops
        if not self._is_stopping:
            self._await_call()
        self._on_call(Call(event))

    def _wait(self) -> None:
        """Wake the event loop; in a thread of its own."""
        while not self._is_over:
            event = self._queue.poll()
            try:
                self._loop.call_soon_threadsafe(self._take_events, event)
            except RuntimeError:  # the event loop is closed
                return
            self._may_wait.acquire()

    def _take_events(self, event: Event) -> None:
        """Take an event, and those that have come since."""
        for _ in range(_EVENTS_AT_ONCE):
            if event.completion_type != cygrpc.CompletionType.operation_complete:
                self._is_over = event.completion_type == cygrpc.CompletionType.queue_shutdown
                self._may_wait.release()
                return
            try:
                event.tag(event)
            except Exception:  # other calls must not wait for it
                _log.exception("an event of a call could not be handled")
            event = self._queue.poll(0.0)
        self._loop.call_soon(self._take_events, event)


def _set_result(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # somebody still waits for it
        future.set_result(result)


def _ignore(_: Event) -> None:
    """Nobody waits for it."""
