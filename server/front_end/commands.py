"""Applies the supervisor's commands: workers, deployments, drain, reload, answers.

Runs in the front-end's event loop; commands are lines of JSON on stdin. A reload does not affect
admitted requests and open connections.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import BinaryIO

import msgspec

from server.control import Answer
from server.engine.engine import Engine
from server.errors import ConfigError
from server.front_end.changes import Changes
from server.grpc_api.server import GrpcServer
from server.http_api.server import HttpServer
from server.inference.commands import (
    Command,
    Drain,
    Reload,
    WorkerDown,
    WorkerReaped,
    WorkerStarted,
)
from server.inference.control import Control
from server.security.authentication import Authenticator
from server.security.tls import make_context
from workers.runtime.spec import Attach, Detach, DeviceSpec

__all__ = ["CommandReader", "Reloader"]

_log = logging.getLogger(__name__)


class Reloader:
    """Applies reloads, one after another."""

    def __init__(self, authenticator: Authenticator, http: HttpServer, grpc: GrpcServer) -> None:
        self._authenticator = authenticator
        self._http = http
        self._grpc = grpc
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, reload: Reload) -> None:
        """Start a task that applies it."""
        task = asyncio.create_task(self.apply(reload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def apply(self, reload: Reload) -> None:
        """Replace the log level, keys and certificates."""
        async with self._lock:
            logging.getLogger().setLevel(reload.log_level.upper())
            self._authenticator.update(reload.security)
            try:
                if reload.security.tls is not None:
                    await self._http.renew(make_context(reload.security.tls))
                    self._grpc.update_certificates(reload.security.tls)
            except (ConfigError, OSError) as error:
                _log.error("certificates not reloaded: %s", error)
                return
            _log.info("configuration reloaded")


class CommandReader:
    """Reads commands from stdin without blocking the event loop; exits when stdin ends.

    `devices` has those that have a worker, or will.
    """

    def __init__(
        self,
        stream: BinaryIO,
        engine: Engine,
        draining: asyncio.Event,
        *,
        reloader: Reloader,
        changes: Changes,
        control: Control,
        devices: dict[str, DeviceSpec],
    ) -> None:
        self._fd = stream.fileno()
        self._engine = engine
        self._draining = draining
        self._reloader = reloader
        self._changes = changes
        self._control = control
        self._devices = devices
        self._rest = b""
        self._decode = msgspec.json.Decoder(Command).decode
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        data = os.read(self._fd, 1 << 16)
        if not data:
            os._exit(0)  # the supervisor has closed it, or is dead
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._execute(self._decode(line))

    def _execute(self, command: Command) -> None:
        match command:
            case WorkerStarted():
                self._engine.worker_started(command.device, command.incarnation)
            case WorkerReaped():
                self._engine.worker_reaped(command.device, command.incarnation, command.executing)
            case WorkerDown():
                self._engine.worker_down(command.device)
            case Attach():
                self._engine.attach_worker(command.device.name, command.slot)
                self._devices[command.device.name] = command.device
            case Detach():
                self._engine.detach_worker(command.device)
                del self._devices[command.device]
            case Drain():
                self._draining.set()
            case Reload():
                self._reloader.start(command)
            case Answer():
                self._control.answer(command)
            case _:
                self._changes.execute(command)
