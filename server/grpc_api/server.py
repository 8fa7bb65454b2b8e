"""The gRPC server in the front-end's event loop: the port, its limits, its beginning and its end.

In: calls of clients. Out: their answers, by `Service`. The supervisor holds the port (see
`server.supervision.ports`), so that it is there for the next front-end, too.
"""

from __future__ import annotations

import asyncio
import logging

from server.engine.memory_budget import MemoryBudget
from server.errors import StartError
from server.grpc_api.certificates import Certificates
from server.grpc_api.core import CoreServer
from server.grpc_api.service import Service
from server.inference.inference import Inference
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses
from server.security.authentication import Authenticator
from server.security.spec import TlsFiles
from server.security.tls import HANDSHAKE_S

__all__ = ["GrpcServer"]

_LARGEST_LIMIT = 2**31 - 1
#: How long answers that are ready have to reach their clients when the server stops.
_GRACE_S = 10.0

#: How lines of gRPC begin that only say what a client did: it sent what is no text.
_OLD_NEWS = ("Invalid encoding",)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether gRPC says more than what clients do."""
    return not record.getMessage().startswith(_OLD_NEWS)


def _options(
    max_request_bytes: int, limits: ClientLimits, connections: int
) -> list[tuple[str, int]]:
    return [
        # Larger messages are refused when their length is known, before they are read.
        ("grpc.max_receive_message_length", min(max_request_bytes, _LARGEST_LIMIT)),
        ("grpc.max_send_message_length", -1),
        # The supervisor holds the port with a socket of its own.
        ("grpc.so_reuseport", 1),
        # Calls of one connection at once; the client waits with more.
        ("grpc.max_concurrent_streams", 1024),
        # Those that are more are closed at once.
        ("grpc.max_allowed_incoming_connections", connections),
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
        authenticator: authenticates clients.
        tls: what connections are encrypted with; None for no encryption.
        address: ``HOST:PORT``, held by the supervisor.
        max_request_bytes: of a message.
        connections: so many there may be.
        limits: what clients may take.
        budget: what all messages may hold together.
        unread: what all answers that clients do not read may hold together.

    Raises:
        StartError: if the port can't be listened on.
    """

    def __init__(
        self,
        inference: Inference,
        authenticator: Authenticator,
        tls: TlsFiles | None,
        *,
        address: str,
        max_request_bytes: int,
        connections: int,
        limits: ClientLimits,
        budget: MemoryBudget,
        unread: UnreadResponses,
    ) -> None:
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
        self._service = Service(inference, authenticator, limits, budget, unread)
        self._certificates = None if tls is None else Certificates(tls)
        credentials = None if self._certificates is None else self._certificates.credentials()
        options = _options(max_request_bytes, limits, connections)
        try:
            self._server = CoreServer(address, credentials, options, self._service.take)
        except OSError as error:
            raise StartError(str(error)) from None

    def start(self) -> None:
        """Take calls."""
        self._server.start()
        self._sweeping = asyncio.create_task(self._service.calls.sweep())

    def renew(self, tls: TlsFiles) -> None:
        """Encrypt new connections with other certificates."""
        if self._certificates is not None:
            self._certificates.renew(tls)

    async def stop(self) -> None:
        """End every stream when what it has read is answered, every call when it is answered."""
        self._service.end_streams()
        await self._server.stop(_GRACE_S)
        self._sweeping.cancel()
