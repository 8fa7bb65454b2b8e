"""The front-end process: one event loop with the HTTP and gRPC servers over the engine.

In: requests from clients, messages from workers and combiner, commands from the supervisor.
Out: answers, assignments, and `Started` once requests are accepted.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, assert_never

import msgspec
import uvloop

from server.engine.engine import Engine
from server.engine.links import Links
from server.engine.memory_budget import MemoryBudget
from server.errors import QueueFull, RequestError
from server.front_end.reload import Reloading
from server.grpc_api.server import GrpcServer
from server.http_api.api import Application, make_api
from server.http_api.connections import Connections
from server.http_api.entrance import Entrance
from server.http_api.fast_infer import FastInfer
from server.http_api.infer_route import InferRoute
from server.http_api.server import HttpServer
from server.inference.inference import Inference
from server.inference.spec import (
    Command,
    Drain,
    FrontEndSpec,
    Reload,
    WorkerDown,
    WorkerReaped,
    WorkerStarted,
)
from server.inference.unread_responses import UnreadResponses
from server.metrics.registry import make_registry
from server.security.authentication import Authenticator
from server.security.tls import make_context
from server.supervision.descriptors import (
    connection_room,
    grpc_connection_room,
    raise_descriptor_limit,
)
from workers.runtime.bootstrap import Started, Status, run_role
from workers.runtime.log_lines import Speaker
from workers.runtime.memory import SharedMemory

if TYPE_CHECKING:
    from server.engine.tracing import Tracer

__all__ = ["main"]

_log = logging.getLogger(__name__)

_MAX_DECODERS = 4
_GC_THRESHOLD = 50_000


class _Commands:
    """The supervisor's commands, read from stdin without blocking the loop."""

    def __init__(
        self, stream: BinaryIO, engine: Engine, on_drain: asyncio.Event, reloading: Reloading
    ) -> None:
        self._fd = stream.fileno()
        self._engine = engine
        self._on_drain = on_drain
        self._reloading = reloading
        self._rest = b""
        self._decode = msgspec.json.Decoder(Command).decode
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        data = os.read(self._fd, 1 << 16)
        if not data:
            os._exit(0)  # the supervisor has let go, or is dead
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._obey(self._decode(line))

    def _obey(self, command: Command) -> None:
        match command:
            case WorkerStarted():
                self._engine.worker_started(command.device, command.incarnation)
            case WorkerReaped():
                self._engine.worker_reaped(command.device, command.incarnation, command.executing)
            case WorkerDown():
                self._engine.worker_down(command.device)
            case Drain():
                self._on_drain.set()
            case Reload():
                self._reloading.go_by(command)
            case _:
                assert_never(command)


class FrontEnd:
    """All that is in this process, put together; made and used in the running event loop.

    Args:
        spec: all it knows.
        commands: the supervisor's, to be read.
    """

    def __init__(self, spec: FrontEndSpec, commands: BinaryIO) -> None:
        self._spec = spec
        self._tracer = _tracer(spec)
        memory = SharedMemory(spec.memory)
        self._engine = Engine(
            memory=memory,
            links=Links(memory=memory, sockets=spec.sockets, epoch=spec.epoch),
            epoch=spec.epoch,
            instances=spec.instances,
            workers=spec.workers,
            starting=spec.starting,
            limits=spec.queue,
            loop=asyncio.get_running_loop(),
            tracer=self._tracer,
        )
        self._engine.start()
        self._threads = ThreadPoolExecutor(min(_MAX_DECODERS, os.cpu_count() or 1), "image")
        self._inference = Inference(spec, self._engine, self._threads, self._tracer)
        self._bodies = MemoryBudget(spec.limits.waiting_bytes)
        self._authenticator = Authenticator(spec.security, self._note_refusal)
        descriptors = raise_descriptor_limit()
        most = spec.limits.connections or connection_room(descriptors)
        unread = UnreadResponses(spec.limits.unread_bytes)
        self._http = self._make_http(most, unread)
        self._grpc = GrpcServer(
            self._inference,
            self._authenticator,
            spec.security.tls,
            address=spec.grpc_address,
            max_request_bytes=spec.max_request_bytes,
            connections=grpc_connection_room(descriptors),
            limits=spec.limits,
            budget=self._bodies,
            unread=unread,
        )
        self._on_drain = asyncio.Event()
        reloading = Reloading(self._authenticator, self._http, self._grpc)
        _Commands(commands, self._engine, self._on_drain, reloading)

    def _make_http(self, most: int, unread: UnreadResponses) -> HttpServer:
        spec, inference, threads = self._spec, self._inference, self._threads
        most_bytes, tls = spec.max_request_bytes, spec.security.tls
        infer = InferRoute(
            inference,
            threads,
            max_request_bytes=most_bytes,
            budget=self._bodies,
            authenticator=self._authenticator,
        )
        fast = FastInfer(
            inference,
            infer.paths,
            max_request_bytes=most_bytes,
            budget=self._bodies,
            authenticator=self._authenticator,
        )
        self._connections = Connections(spec.limits, most, unread, fast)
        metrics = make_registry(spec, inference, self._bodies, self._connections.statistics)
        application = Application(inference, infer, make_api(inference, infer, metrics, threads))
        return HttpServer(
            Entrance(application, self._authenticator, infer.paths),
            self._connections,
            listening=socket.socket(fileno=spec.http_fd),
            context=None if tls is None else make_context(tls),
        )

    async def run(self, status: Status) -> None:
        """Serve until told to drain; `status` hears when requests are accepted."""
        self._grpc.start()
        serving = asyncio.create_task(self._http.serve())
        sweeping = asyncio.create_task(self._connections.sweep(self._http.server_state))
        opened = asyncio.create_task(self._engine.wait_open())
        draining = asyncio.create_task(self._on_drain.wait())
        await asyncio.wait({serving, opened, draining}, return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            gc.collect()
            gc.freeze()  # what is here now stays: later collections need not look at it
            # Requests leave no cycles behind.
            gc.set_threshold(_GC_THRESHOLD)
            status.send(Started())
            await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            await self._drain()
        await asyncio.gather(serving, self._grpc.stop())
        sweeping.cancel()
        if self._tracer is not None:
            self._tracer.close()

    async def _drain(self) -> None:
        self._inference.is_leaving = True
        await asyncio.sleep(self._spec.drain_delay_s)
        await self._engine.drain()
        self._http.should_exit = True

    def _note_refusal(self, error: RequestError, address: str) -> None:
        """Count a request that was refused at the door; who tries keys is told in the log."""
        self._inference.unaddressed.fail(time.monotonic(), error)
        is_busy = isinstance(error, QueueFull)  # its client has too much at work
        if not is_busy or self._spec.access_log == "all":
            level = logging.INFO if is_busy else logging.WARNING
            extra = {"client": address, "status": error.http_status}
            _log.log(level, "refused: %s", error.message, extra=extra)


def _tracer(spec: FrontEndSpec) -> Tracer | None:
    if spec.tracing is None:
        return None
    from server.engine.tracing import Tracer  # noqa: PLC0415  (only where it is configured)

    return Tracer(spec.tracing)


async def _serve(spec: FrontEndSpec, commands: BinaryIO, status: Status) -> None:
    await FrontEnd(spec, commands).run(status)


def _run(spec: FrontEndSpec, commands: BinaryIO, status: Status) -> None:
    uvloop.run(_serve(spec, commands, status))


def main() -> None:
    """Entry point of the front-end process."""
    run_role(lambda _: Speaker("front-end"), FrontEndSpec, _run)


if __name__ == "__main__":
    main()
