"""The front-end process: one event loop with the HTTP and gRPC servers over the gateway.

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
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, assert_never

import msgspec
import uvloop

from server.body_budget import BodyBudget
from server.descriptors import connection_room, grpc_connection_room, raise_descriptor_limit
from server.errors import QueueFull, RequestError
from server.front_end_spec import (
    Command,
    Drain,
    FrontEndSpec,
    Reload,
    WorkerDown,
    WorkerReaped,
    WorkerStarted,
)
from server.gateway import Gateway
from server.grpc_api.server import GrpcServer
from server.http_api.api import Application, make_api
from server.http_api.connections import Connections
from server.http_api.entrance import Entrance
from server.http_api.infer_route import InferRoute
from server.http_api.server import HttpServer
from server.inference import Inference
from server.metrics.metrics import make_metrics
from server.reloading import Reloading
from server.security.doorkeeper import Doorkeeper
from server.security.tls import make_context
from workers.bootstrap import Started, Status, run_role
from workers.log_lines import Speaker

if TYPE_CHECKING:
    from server.tracing import Tracer

__all__ = ["main"]

_log = logging.getLogger(__name__)

_MAX_DECODERS = 4
_GC_THRESHOLD = 50_000


class _Commands:
    """The supervisor's commands, read from stdin without blocking the loop."""

    def __init__(
        self, stream: BinaryIO, gateway: Gateway, on_drain: asyncio.Event, reloading: Reloading
    ) -> None:
        self._fd = stream.fileno()
        self._gateway = gateway
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
                self._gateway.worker_started(command.device, command.incarnation)
            case WorkerReaped():
                self._gateway.worker_reaped(command.device, command.incarnation, command.executing)
            case WorkerDown():
                self._gateway.worker_down(command.device)
            case Drain():
                self._on_drain.set()
            case Reload():
                self._reloading.go_by(command)
            case _:
                assert_never(command)


async def _serve(spec: FrontEndSpec, commands: BinaryIO, status: Status) -> None:
    tracer = _tracer(spec)
    gateway = Gateway(
        memory=spec.memory,
        sockets=spec.sockets,
        epoch=spec.epoch,
        instances=spec.instances,
        workers=spec.workers,
        starting=spec.starting,
        limits=spec.queue,
        tracer=tracer,
    )
    on_drain = asyncio.Event()
    gateway.start()
    threads = ThreadPoolExecutor(min(_MAX_DECODERS, os.cpu_count() or 1), "image")
    inference = Inference(spec, gateway, threads, tracer)
    bodies = BodyBudget(spec.limits.waiting_bytes)
    infer = InferRoute(inference, threads, max_request_bytes=spec.max_request_bytes, budget=bodies)
    descriptors = raise_descriptor_limit()
    connections = Connections(spec.limits, spec.limits.connections or connection_room(descriptors))
    door = Doorkeeper(spec.security, partial(_note_refusal, inference))
    tls = spec.security.tls
    metrics = make_metrics(spec, inference, bodies, connections.statistics)
    api = make_api(inference, infer, metrics, threads)
    server = HttpServer(
        Entrance(Application(inference, infer, api), door, infer.paths),
        connections,
        listening=socket.socket(fileno=spec.http_fd),
        context=None if tls is None else make_context(tls),
    )
    grpc = GrpcServer(
        inference,
        door,
        tls,
        address=spec.grpc_address,
        max_request_bytes=spec.max_request_bytes,
        connections=grpc_connection_room(descriptors),
        limits=spec.limits,
        budget=bodies,
    )
    # Commands are read when the loop comes round: whoever obeys them is there by then.
    _Commands(commands, gateway, on_drain, Reloading(door, server, grpc))
    await grpc.start()
    serving = asyncio.create_task(server.serve())
    sweeping = asyncio.create_task(connections.sweep(server.server_state))
    opened = asyncio.create_task(gateway.wait_open())
    draining = asyncio.create_task(on_drain.wait())
    await asyncio.wait({serving, opened, draining}, return_when=asyncio.FIRST_COMPLETED)
    if opened.done():
        gc.collect()
        gc.freeze()  # what is here now stays: later collections need not look at it
        gc.set_threshold(_GC_THRESHOLD)  # requests leave no cycles behind
        status.send(Started())
        await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        inference.is_leaving = True
        await asyncio.sleep(spec.drain_delay_s)
        await gateway.drain()
        server.should_exit = True
    await asyncio.gather(serving, grpc.stop())
    sweeping.cancel()
    if tracer is not None:
        tracer.close()


def _note_refusal(inference: Inference, error: RequestError, address: str) -> None:
    """Count a request that was refused at the door; who tries keys is told in the log."""
    inference.unaddressed.fail(time.monotonic(), error)
    if not isinstance(error, QueueFull):
        extra = {"client": address, "status": error.http_status}
        _log.warning("refused: %s", error.message, extra=extra)


def _tracer(spec: FrontEndSpec) -> Tracer | None:
    if spec.tracing is None:
        return None
    from server.tracing import Tracer  # noqa: PLC0415  (only where it is configured)

    return Tracer(spec.tracing)


def _run(spec: FrontEndSpec, commands: BinaryIO, status: Status) -> None:
    uvloop.run(_serve(spec, commands, status))


def main() -> None:
    """Entry point of the front-end process."""
    run_role(lambda _: Speaker("front-end"), FrontEndSpec, _run)


if __name__ == "__main__":
    main()
