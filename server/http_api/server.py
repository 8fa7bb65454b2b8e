"""The HTTP server: uvicorn's, on the inherited socket, encrypted or not.

Runs in the front-end's event loop. New certificates are for new connections, which another listener
on the same socket accepts; so no client resumes a TLS session from before.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import uvicorn

from server.http_api.connection import Connection
from server.http_api.connections import Connections
from server.security.tls import HANDSHAKE_S

__all__ = ["HttpServer"]

_SHUTDOWN_S = 5.0


class HttpServer(uvicorn.Server):
    """uvicorn's server, with certificates that can change; no encryption without `context`."""

    def __init__(
        self,
        application: Any,
        connections: Connections,
        *,
        listening: socket.socket,
        context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                interface="asgi3",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
            )
        )
        self._connections = connections
        self._listening = listening
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; called by uvicorn."""
        await self.lifespan.startup()
        self.servers = [await self._listen()]
        self.started = True

    async def renew(self, context: ssl.SSLContext) -> None:
        """Encrypt new connections with other certificates."""
        self._context = context
        if not self.started:
            return
        new = await self._listen()
        retired = [new] if self.should_exit else self.servers
        if not self.should_exit:
            self.servers = [new]
        for server in retired:
            server.close()

    async def _listen(self) -> asyncio.Server:
        limits: dict[str, Any] = {}
        if self._context is not None:
            limits = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": _SHUTDOWN_S}
        return await asyncio.get_running_loop().create_server(
            self._protocol,
            sock=self._listening.dup(),
            backlog=self.config.backlog,
            ssl=self._context,
            **limits,
        )

    def _protocol(self) -> Connection:
        return Connection(
            connections=self._connections,
            application=self.config.loaded_app,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
