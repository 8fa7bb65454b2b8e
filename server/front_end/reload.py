"""What becomes of `Reload` in the front-end: other keys, other certificates, another log level.

Runs in the front-end's event loop. Nothing that is under way notices: requests that were let in
stay in, connections keep the certificates with which they began.
"""

from __future__ import annotations

import asyncio
import logging

from server.errors import ConfigError
from server.grpc_api.server import GrpcServer
from server.http_api.server import HttpServer
from server.inference.spec import Reload
from server.security.authentication import Authenticator
from server.security.tls import make_context

__all__ = ["Reloading"]

_log = logging.getLogger(__name__)


class Reloading:
    """Passes on what was read anew; one after another."""

    def __init__(self, authenticator: Authenticator, http: HttpServer, grpc: GrpcServer) -> None:
        self._authenticator = authenticator
        self._http = http
        self._grpc = grpc
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def go_by(self, reload: Reload) -> None:
        """Begin to go by it, which takes a few turns of the event loop."""
        task = asyncio.create_task(self._go_by(reload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _go_by(self, reload: Reload) -> None:
        async with self._turn:
            logging.getLogger().setLevel(reload.log_level.upper())
            self._authenticator.update(reload.security)
            try:
                if reload.security.tls is not None:
                    await self._http.renew(make_context(reload.security.tls))
                    self._grpc.update_certificates(reload.security.tls)
            except (ConfigError, OSError) as error:
                _log.error("the certificates stay as they were: %s", error)
                return
            _log.info("goes by the configuration as it is now")
