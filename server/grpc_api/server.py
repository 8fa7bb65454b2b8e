"""The gRPC server in the front-end's event loop: the port, its limits, its beginning and its end.

In: calls of clients. Out: their answers, by `Service`. The supervisor holds the port (see
`server.ports`), so that it is there for the next front-end, too.
"""

from __future__ import annotations

import asyncio
import logging

import grpc

from server.body_budget import BodyBudget
from server.errors import StartError
from server.front_end_spec import ClientLimits
from server.grpc_api.certificates import Certificates
from server.grpc_api.service import Service
from server.inference import Inference
from server.security.doorkeeper import Doorkeeper
from server.security.spec import TlsFiles
from server.security.tls import HANDSHAKE_S

__all__ = ["GrpcServer"]

_LARGEST_LIMIT = 2**31 - 1
#: grpc.aio takes one new call per turn of the event loop and server, so that a crowd waits outside
#: and batches stay small. So there are several servers, and the kernel deals connections out.
_SERVERS = 32
#: How long answers that are ready have to reach their clients when the server stops.
_GRACE_S = 10.0


def _is_news(record: logging.LogRecord) -> bool:
    """Whether gRPC says more than that a client went before it had taken its answer."""
    return not record.getMessage().startswith("ExecuteBatchError")


def _options(max_request_bytes: int, limits: ClientLimits) -> list[tuple[str, int]]:
    return [
        # Larger messages are refused when their length is known, before they are read.
        ("grpc.max_receive_message_length", min(max_request_bytes, _LARGEST_LIMIT)),
        ("grpc.max_send_message_length", -1),
        # The servers share the port, which the supervisor holds with a socket of its own.
        ("grpc.so_reuseport", 1),
        # Calls of one connection at once; the client waits with more.
        ("grpc.max_concurrent_streams", 1024),
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
        limits: what clients may take.
        budget: what all messages may hold together.

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
        limits: ClientLimits,
        budget: BodyBudget,
    ) -> None:
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
        self._service = Service(inference, door, limits, budget)
        self._certificates = None if tls is None else Certificates(tls)
        options = _options(max_request_bytes, limits)
        self._servers = [grpc.aio.server(options=options) for _ in range(_SERVERS)]
        try:
            for server in self._servers:
                server.add_generic_rpc_handlers((self._service.handlers(),))
                if self._certificates is None:
                    server.add_insecure_port(address)
                else:
                    server.add_secure_port(address, self._certificates.credentials())
        except RuntimeError as error:
            raise StartError(f"can't listen on {address} for gRPC: {error}") from None

    async def start(self) -> None:
        """Take calls."""
        await asyncio.gather(*(server.start() for server in self._servers))
        self._sweeping = asyncio.create_task(self._service.calls.sweep())

    def renew(self, tls: TlsFiles) -> None:
        """Encrypt new connections with other certificates."""
        if self._certificates is not None:
            self._certificates.renew(tls)

    async def stop(self) -> None:
        """End every stream when what it has read is answered, every call when it is answered."""
        self._service.end_streams()
        await asyncio.gather(*(server.stop(_GRACE_S) for server in self._servers))
        self._sweeping.cancel()
