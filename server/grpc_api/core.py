"""gRPC core's server on the event loop: calls flow in, bytes and statuses out.

Runs in the front-end; the only module that uses gRPC's completion queue. Every operation on a call
(a message is received, a response is written, the client has gone) completes with an event::

    gRPC's threads --events--> completion queue --first--> a thread that waits --wakes--+
                                      |                                                 v
                                      +---------------all others--------------> the event loop

The thread only waits for the first event; the event loop handles that one and all others that are
ready, then lets the thread wait again. So one iteration of the loop handles whatever has come, and
the two never contend for the interpreter lock. An event's tag is the function to call with it.

`grpc.aio` uses the same queue, but makes two tasks and five futures per call, and accepts one call
per iteration. The parts of `cygrpc` used here are those that grpcio's own servers use; they are not
a documented interface (see docs/decisions/0006).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence, Set
from functools import partial
from typing import Any
from urllib.parse import unquote

from grpc._cython import cygrpc

__all__ = ["CoreServer", "Metadata", "ServerCall", "end_connections", "split_peer"]

_log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, Any], ...]
Event = Any

#: Calls accepted per iteration of the event loop; more wait in gRPC.
_AWAITED_CALLS = 64
#: After so many events other callbacks of the event loop run.
_EVENTS_AT_ONCE = 256
#: Deadlines further away than this count as none.
_FOREVER_S = 1e9
_NO_FLAGS = 0


class ServerCall:
    """One call, from its headers to its status; `trailing` metadata is sent with the latter.

    `on_cancelled` is called, and `is_cancelled` set, if the call ends before its status is sent:
    the client has gone, or the deadline has passed. `is_over` is set when the status was sent.
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
        # gRPC gives the deadline on the wall clock, which can jump.
        left_s: float = event.call_details.deadline - time.time()
        self._deadline = time.monotonic() + left_s if left_s < _FOREVER_S else None
        self._has_begun = False
        self._on_message: Callable[[bytes | None], object] | None = None
        self._start((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    def peer(self) -> str:
        """The client's address, like ``ipv4:127.0.0.1:50000`` or ``ipv6:%5B::1%5D:50000``."""
        peer: bytes = self._call.peer()
        return peer.decode()

    def certificate_names(self) -> Sequence[bytes]:
        """Common names, else alternative names, in the client's certificate; empty for none."""
        names = cygrpc.auth_context(self._call) or {}
        return names.get(b"x509_common_name") or names.get(b"x509_subject_alternative_name") or ()

    def time_remaining(self) -> float | None:
        """Seconds until its deadline, None if it has none."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def receive(self, on_message: Callable[[bytes | None], object]) -> None:
        """Receive the next message, None at the end. One at a time."""
        self._on_message = on_message
        self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    async def messages(self) -> AsyncIterator[bytes]:
        """Iterate over all messages."""
        loop = asyncio.get_running_loop()
        while True:
            message: asyncio.Future[bytes | None] = loop.create_future()
            self.receive(partial(_set_result, message))
            data = await message
            if data is None:
                return
            yield data

    async def write(self, message: bytes) -> None:
        """Send one of several responses; returns when it is written. One at a time."""
        written: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        operations = (cygrpc.SendMessageOperation(message, _NO_FLAGS),)
        self._send(operations, partial(_set_result, written))
        await written

    def respond(self, message: bytes, on_written: Callable[[Event], object]) -> None:
        """Send the only response and the status OK.

        `on_written` is called when it is written, or never will be.
        """
        self.is_over = True
        status = cygrpc.SendStatusFromServerOperation(
            self.trailing, cygrpc.StatusCode.ok, b"", _NO_FLAGS
        )
        self._send((cygrpc.SendMessageOperation(message, _NO_FLAGS), status), on_written)

    def end(self, code: int = cygrpc.StatusCode.ok, text: str = "") -> None:
        """Send the status, after what was written before."""
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
        assert error == cygrpc.CallError.ok, f"gRPC refused an operation: {error}"

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

    `options` are gRPC's channel arguments; `credentials` are None for no encryption. Raises
    `OSError` if it can't listen on the ``HOST:PORT`` in `address`; `port` is the one on which it
    listens.
    """

    def __init__(
        self,
        address: str,
        credentials: Any,
        options: Sequence[tuple[str, int]],
        on_call: Callable[[ServerCall], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_call = on_call
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)
        tls = () if credentials is None else (credentials._credentials,)
        self.port: int = self._server.add_http2_port(address.encode(), *tls)
        if not self.port:
            raise OSError(f"gRPC can't listen on {address}")
        self._is_stopping = self._is_over = False
        self._may_wait = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._wait, name="grpc events", daemon=True)

    def start(self) -> None:
        """Accept calls."""
        self._server.start()
        for _ in range(_AWAITED_CALLS):
            self._await_call()
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls and wait for the others to end; cancel them after `grace_s`."""
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
        self._server.request_call(self._queue, self._queue, self._accept)

    def _accept(self, event: Event) -> None:
        if not event.success:
            return  # the server is stopping
        if not self._is_stopping:
            self._await_call()
        self._on_call(ServerCall(event))

    def _wait(self) -> None:
        """Wait for events and wake the event loop; in a thread of its own."""
        while not self._is_over:
            event = self._queue.poll()
            try:
                self._loop.call_soon_threadsafe(self._handle_events, event)
            except RuntimeError:  # the event loop is closed
                return
            self._may_wait.acquire()

    def _handle_events(self, event: Event) -> None:
        """Handle an event, and those that have come since."""
        for _ in range(_EVENTS_AT_ONCE):
            if event.completion_type != cygrpc.CompletionType.operation_complete:
                self._is_over = event.completion_type == cygrpc.CompletionType.queue_shutdown
                self._may_wait.release()
                return
            try:
                event.tag(event)
            except Exception:  # other calls must not suffer
                _log.exception("an event of a call could not be handled")
            event = self._queue.poll(0.0)
        self._loop.call_soon(self._handle_events, event)


def _set_result(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # else the waiting task was cancelled
        future.set_result(result)


def _ignore(_: Event) -> None:
    """Nobody waits for this event."""


def split_peer(peer: str) -> tuple[str, str]:
    """Host and port of a peer, like ``ipv4:127.0.0.1:50000`` or ``ipv6:%5B::1%5D:50000``."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return host.strip("[]"), port


def end_connections(peers: Set[str]) -> None:
    """Shut down connections by `ServerCall.peer`, which gRPC's server in Python has no way to do.

    Their sockets are found among this process's descriptors; gRPC then finds them closed.
    """
    wanted = {(_address(host), int(port)) for host, port in map(split_peer, peers)}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), _duplicate(int(name)) as copy:
            if copy.family in {socket.AF_INET, socket.AF_INET6}:
                host, port = copy.getpeername()[:2]
                if (_address(host), port) in wanted:
                    copy.shutdown(socket.SHUT_RDWR)


def _duplicate(fd: int) -> socket.socket:
    """Duplicate a socket, as gRPC may close it meanwhile; raises `OSError` if it is no socket."""
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped  # gRPC calls these IPv4
    return address
