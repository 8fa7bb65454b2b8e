"""The composition root of the front-end process: HTTP and gRPC servers over the engine, on uvloop.

Requests from clients, messages from workers and combiner, and the supervisor's commands flow in;
answers, assignments, and `Started` once requests are accepted, flow out.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

import uvloop

from server.descriptors import connection_limits, raise_descriptor_limit
from server.engine.engine import Engine
from server.engine.links import Links
from server.engine.memory_budget import MemoryBudget
from server.errors import QueueFull, RequestError
from server.front_end.changes import Changes
from server.front_end.commands import CommandReader, Reloader
from server.grpc_api.server import GrpcServer
from server.http_api.api import Application, AuthMiddleware, make_api
from server.http_api.connections import Connections
from server.http_api.fast_infer import FastInfer
from server.http_api.infer_route import InferRoute
from server.http_api.server import HttpServer
from server.inference.control import Control
from server.inference.inference import Inference
from server.inference.spec import FrontEndSpec
from server.inference.traffic import TrafficReporter
from server.inference.unread_responses import UnreadResponses
from server.metrics.registry import make_registry
from server.security.authentication import Authenticator
from server.security.tls import make_context
from workers.runtime.bootstrap import Started, StatusChannel, run_role
from workers.runtime.logs import ProcessName
from workers.runtime.memory import SharedMemory

if TYPE_CHECKING:
    from server.engine.tracing import Tracer

__all__ = ["FrontEnd", "main"]

_log = logging.getLogger(__name__)

_MAX_DECODERS = 4
_GC_THRESHOLD = 50_000


class FrontEnd:
    """The parts of the front-end, assembled and run in the running event loop."""

    def __init__(self, spec: FrontEndSpec, commands: BinaryIO, status: StatusChannel) -> None:
        self._spec = spec
        self._status = status
        status.write_from(asyncio.get_running_loop())
        self._tracer = _tracer(spec)
        self._devices = {device.name: device for device in spec.devices}
        self._memory = memory = SharedMemory(spec.memory)
        self._engine = Engine(
            memory=memory,
            links=Links(memory=memory, sockets=spec.sockets, epoch=spec.epoch),
            epoch=spec.epoch,
            generation=spec.deployment.generation,
            instances=spec.deployment.instances,
            workers=spec.workers,
            starting=spec.starting,
            limits=spec.queue,
            loop=asyncio.get_running_loop(),
            tracer=self._tracer,
        )
        self._engine.start()
        self._threads = ThreadPoolExecutor(min(_MAX_DECODERS, os.cpu_count() or 1), "image")
        control = Control(status.send, spec.epoch)
        self._inference = Inference(spec, self._engine, self._threads, control, self._tracer)
        self._bodies = MemoryBudget(spec.limits.waiting_bytes)
        self._authenticator = Authenticator(spec.security, self._note_refusal)
        http_connections, grpc_connections = connection_limits(
            raise_descriptor_limit(), len(spec.devices)
        )
        unread = UnreadResponses(spec.limits.unread_bytes)
        self._http = self._make_http(spec.limits.connections or http_connections, unread)
        self._grpc = GrpcServer(
            self._inference,
            self._authenticator,
            spec.security.tls,
            address=spec.grpc_address,
            max_request_bytes=spec.max_request_bytes,
            connections=grpc_connections,
            limits=spec.limits,
            budget=self._bodies,
            unread=unread,
        )
        self._draining = asyncio.Event()
        CommandReader(
            commands,
            self._engine,
            self._draining,
            reloader=Reloader(self._authenticator, self._http, self._grpc),
            changes=Changes(self._inference, status.send, asyncio.get_running_loop()),
            control=control,
            devices=self._devices,
        )

    def _make_http(self, max_connections: int, unread: UnreadResponses) -> HttpServer:
        spec, inference, threads = self._spec, self._inference, self._threads
        tls = spec.security.tls
        infer = InferRoute(
            inference,
            threads,
            max_request_bytes=spec.max_request_bytes,
            max_json_bytes=spec.max_json_bytes,
            budget=self._bodies,
            authenticator=self._authenticator,
        )
        fast = FastInfer(
            inference,
            infer.paths,
            max_request_bytes=spec.max_request_bytes,
            budget=self._bodies,
            authenticator=self._authenticator,
        )
        self._connections = Connections(spec.limits, max_connections, unread, fast)
        metrics = make_registry(
            inference,
            memory=self._memory,
            devices=self._devices.values(),
            bodies=self._bodies,
            connections=self._connections.statistics,
        )
        application = Application(inference, infer, make_api(inference, infer, metrics, threads))
        return HttpServer(
            AuthMiddleware(application, self._authenticator, infer.paths),
            self._connections,
            listening=socket.socket(fileno=spec.http_fd),
            context=None if tls is None else make_context(tls),
        )

    async def run(self) -> None:
        """Serve until told to drain; report `Started` once requests are accepted."""
        self._grpc.start()
        serving = asyncio.create_task(self._http.serve())
        sweeping = asyncio.create_task(self._connections.sweep(self._http.server_state))
        reporter = TrafficReporter(self._inference, self._status.send)
        reporting = asyncio.create_task(reporter.run())
        opened = asyncio.create_task(self._engine.wait_open())
        draining = asyncio.create_task(self._draining.wait())
        await asyncio.wait({serving, opened, draining}, return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            gc.collect()
            gc.freeze()  # exclude what is permanent from later collections
            gc.set_threshold(_GC_THRESHOLD)  # rare, since requests leave no cycles
            self._status.send(Started())
            await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            await self._drain()
        await asyncio.gather(serving, self._grpc.stop())
        sweeping.cancel()
        reporting.cancel()
        reporter.report()
        if self._tracer is not None:
            self._tracer.close()

    async def _drain(self) -> None:
        self._inference.is_leaving = True
        await asyncio.sleep(self._spec.drain_delay_s)
        self._inference.rollouts.stop()
        self._inference.deployments.resume()  # who waits for a model is refused
        await self._engine.drain()
        self._http.should_exit = True

    def _note_refusal(self, error: RequestError, address: str) -> None:
        """Count a request that the authenticator refused, and log attempts to guess keys."""
        self._inference.unaddressed.fail(time.monotonic(), error)
        is_busy = isinstance(error, QueueFull)  # its client has too many requests in progress
        if not is_busy or self._spec.access_log == "all":
            level = logging.INFO if is_busy else logging.WARNING
            extra = {"client": address, "status": error.http_status}
            _log.log(level, "refused: %s", error.message, extra=extra)


def _tracer(spec: FrontEndSpec) -> Tracer | None:
    if spec.tracing is None:
        return None
    from server.engine.tracing import Tracer  # noqa: PLC0415  (only where it is configured)

    return Tracer(spec.tracing)


def main() -> None:
    """Entry point of the front-end process."""

    async def serve(spec: FrontEndSpec, commands: BinaryIO, status: StatusChannel) -> None:
        await FrontEnd(spec, commands, status).run()

    name = ProcessName("front-end")
    run_role(lambda _: name, FrontEndSpec, lambda *args: uvloop.run(serve(*args)))


if __name__ == "__main__":
    main()
