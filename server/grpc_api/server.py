"""The gRPC server in the front-end's event loop: its port, options, certificates, start and stop.

In: calls of clients. Out: their responses, by `Service`. The supervisor holds the port (see
`server.supervision.sockets`), so that it remains for the next front-end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc

from server.engine.memory_budget import MemoryBudget
from server.errors import StartError
from server.grpc_api.core import CoreServer
from server.grpc_api.service import Service
from server.inference.inference import Inference
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses
from server.security.authentication import Authenticator
from server.security.spec import TlsFiles
from server.security.tls import HANDSHAKE_S

__all__ = ["Certificates", "GrpcServer"]

_LARGEST_LIMIT = 2**31 - 1
#: How long finished responses have to reach their clients when the server stops.
_GRACE_S = 10.0

#: Log lines of gRPC that only report a client's mistake (metadata that is not text) begin so.
_CLIENT_MISTAKES = ("Invalid encoding",)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_CLIENT_MISTAKES)


def _options(
    max_request_bytes: int, limits: ClientLimits, connections: int
) -> list[tuple[str, int]]:
    return [
        # Larger messages are refused by their length prefix, before they are read.
        ("grpc.max_receive_message_length", min(max_request_bytes, _LARGEST_LIMIT)),
        ("grpc.max_send_message_length", -1),
        # The supervisor holds the port with a socket of its own.
        ("grpc.so_reuseport", 1),
        # Concurrent calls of one connection; the client holds back more.
        ("grpc.max_concurrent_streams", 1024),
        # Further connections are closed at once.
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", limits.header_bytes),
        # Idle connections are closed; clients open another when they need it.
        ("grpc.max_connection_idle_ms", max(1, round(limits.idle_s * 1000))),
        # Detects clients that have vanished, so that their rows are freed.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients may ping on idle connections; by default that ends them.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        # For clients that connect and stay silent.
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
    ]


class Certificates:
    """The TLS certificates of the server, which can change while it runs.

    gRPC asks for them before each handshake, in threads of its own.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files

    def update(self, files: TlsFiles) -> None:
        """Use other certificates from now on; whether clients need one does not change."""
        self._files = files

    def credentials(self) -> Any:
        """Make the `grpc.ServerCredentials`."""
        current = self._files

        def fetch() -> Any:
            nonlocal current
            if self._files is current:
                return None
            current = self._files
            return _certificate_configuration(current)

        return grpc.dynamic_ssl_server_credentials(
            _certificate_configuration(current),
            fetch,
            require_client_authentication=bool(current.client_ca),
        )


def _certificate_configuration(files: TlsFiles) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificate)], root_certificates=files.client_ca or None
    )


class GrpcServer:
    """Serves the protocol over gRPC; made and used in the running event loop.

    `address` is ``HOST:PORT``, held by the supervisor; `tls` is None for no encryption; the budgets
    are of all messages and of all unread responses together. Raises `StartError` if it can't
    listen.
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
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_logging)
        self._service = Service(inference, authenticator, limits, budget, unread)
        self._certificates = None if tls is None else Certificates(tls)
        credentials = None if self._certificates is None else self._certificates.credentials()
        options = _options(max_request_bytes, limits, connections)
        try:
            self._server = CoreServer(address, credentials, options, self._service.handle)
        except OSError as error:
            raise StartError(str(error)) from None

    def start(self) -> None:
        """Accept calls."""
        self._server.start()
        self._sweeping = asyncio.create_task(self._service.calls.sweep())

    def update_certificates(self, tls: TlsFiles) -> None:
        """Use other certificates for new connections."""
        if self._certificates is not None:
            self._certificates.update(tls)

    async def stop(self) -> None:
        """Stop once each stream has answered what it has read, and each call is answered."""
        self._service.stop_streams()
        await self._server.stop(_GRACE_S)
        self._sweeping.cancel()
