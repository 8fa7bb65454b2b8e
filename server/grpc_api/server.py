"""The gRPC server in the front-end's event loop: the port, its limits, its beginning and its end.

In: calls of clients. Out: their answers, by `Service`. The supervisor holds the port (see
`server.supervision.ports`), so that it is there for the next front-end, too.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc

from server.engine.memory_budget import MemoryBudget
from server.errors import StartError
from server.front_end_spec import ClientLimits
from server.grpc_api.certificates import Certificates
from server.grpc_api.service import Service
from server.inference.inference import Inference
from server.inference.unread_answers import UnreadAnswers
from server.security.doorkeeper import Doorkeeper
from server.security.spec import TlsFiles
from server.security.tls import HANDSHAKE_S

__all__ = ["GrpcServer"]

_log = logging.getLogger(__name__)

_LARGEST_LIMIT = 2**31 - 1
#: grpc.aio takes one new call per turn of the event loop and server, so that a crowd waits outside
#: and batches stay small. So there are several servers, and the kernel deals connections out.
_SERVERS = 32
#: It does not deal them out evenly: a server may have some more than its part of those allowed.
_UNEVEN, _LEAST_EACH = 2, 16
#: How long answers that are ready have to reach their clients when the server stops.
_GRACE_S = 10.0
#: A server that could not be replaced is tried to be again that much later.
_AGAIN_S = 1.0

#: How lines of gRPC begin that only say what a client did: it went before it took its answer,
#: or sent what is no text.
_OLD_NEWS = ("ExecuteBatchError", "Invalid encoding", "'utf-8' codec")


def _is_news(record: logging.LogRecord) -> bool:
    """Whether gRPC says more than what clients do."""
    return not record.getMessage().startswith(_OLD_NEWS)


def _options(
    max_request_bytes: int, limits: ClientLimits, connections: int
) -> list[tuple[str, int]]:
    each = max(_LEAST_EACH, _UNEVEN * connections // _SERVERS)
    return [
        # Larger messages are refused when their length is known, before they are read.
        ("grpc.max_receive_message_length", min(max_request_bytes, _LARGEST_LIMIT)),
        ("grpc.max_send_message_length", -1),
        # The servers share the port, which the supervisor holds with a socket of its own.
        ("grpc.so_reuseport", 1),
        # Calls of one connection at once; the client waits with more.
        ("grpc.max_concurrent_streams", 1024),
        # A server closes those that are more at once.
        ("grpc.max_allowed_incoming_connections", each),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", limits.header_bytes),
        # A connection without calls is closed; clients open another when they need it.
        ("grpc.max_connection_idle_ms", max(1, round(limits.idle_s * 1000))),
        # A client that has vanished without a word lets go of its rows.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients may look after their idle connections; by default that ends them.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        # A client that connects and says nothing, or shakes hands for ever.
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
    ]


class GrpcServer:
    """Serves the protocol over gRPC; made and used in the running event loop.

    Args:
        inference: has requests answered.
        door: lets calls in.
        tls: what connections are encrypted with; None for no encryption.
        address: ``HOST:PORT``, held by the supervisor.
        max_request_bytes: of a message.
        connections: about so many there may be.
        limits: what clients may take.
        budget: what all messages may hold together.
        unread: what all answers that clients do not read may hold together.

    Raises:
        StartError: if the port can't be listened on.
    """

    def __init__(
        self,
        inference: Inference,
        door: Doorkeeper,
        tls: TlsFiles | None,
        *,
        address: str,
        max_request_bytes: int,
        connections: int,
        limits: ClientLimits,
        budget: MemoryBudget,
        unread: UnreadAnswers,
    ) -> None:
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
        self._service = Service(inference, door, limits, budget, unread)
        self._certificates = None if tls is None else Certificates(tls)
        self._address = address
        self._options = _options(max_request_bytes, limits, connections)
        try:
            self._servers = [self._make() for _ in range(_SERVERS)]
        except RuntimeError as error:
            raise StartError(f"can't listen on {address} for gRPC: {error}") from None
        self._guards: list[asyncio.Task[None]] = []

    def _make(self) -> Any:
        """A server that listens.

        Raises:
            RuntimeError: if it can't.
        """
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._service.handlers(),))
        if self._certificates is None:
            server.add_insecure_port(self._address)
        else:
            server.add_secure_port(self._address, self._certificates.credentials())
        return server

    async def start(self) -> None:
        """Take calls."""
        await asyncio.gather(*(server.start() for server in self._servers))
        self._sweeping = asyncio.create_task(self._service.calls.sweep())
        self._guards = [asyncio.create_task(self._guard(place)) for place in range(_SERVERS)]

    async def _guard(self, place: int) -> None:
        """Replace a server that ends by itself.

        A request whose path is not UTF-8 ends the loop in which grpc.aio takes calls, and with it
        the server.
        """
        while True:
            try:
                # To cancel this wait would cancel what the server's own end waits for.
                await asyncio.shield(self._servers[place].wait_for_termination())
            except Exception as reason:
                _log.warning("a gRPC server ended, another takes its place: %s", reason)
            try:
                server = self._make()
                await server.start()
                self._servers[place] = server
            except Exception as reason:  # such as want of descriptors; there may be some later
                _log.warning("no gRPC server could be started: %s", reason)
                await asyncio.sleep(_AGAIN_S)

    def renew(self, tls: TlsFiles) -> None:
        """Encrypt new connections with other certificates."""
        if self._certificates is not None:
            self._certificates.renew(tls)

    async def stop(self) -> None:
        """End every stream when what it has read is answered, every call when it is answered."""
        for guard in self._guards:
            guard.cancel()
        self._service.end_streams()
        await asyncio.gather(*(server.stop(_GRACE_S) for server in self._servers))
        self._sweeping.cancel()
