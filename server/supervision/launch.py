"""The composition root: from a configuration to a running server.

Runs in the process that becomes the supervisor. Everything that can be found wrong without taking
traffic is found here, in this order: keys and certificates, ports, and what
`server.deployment.plan` looks at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from functools import partial

from setproctitle import setproctitle

from server.config import Config, LimitsConfig
from server.deployment.plan import Plan, make_plan
from server.inference.spec import ClientLimits, FrontEndSpec, QueueLimits
from server.security.credentials import read_credentials
from server.stdout import echo
from server.supervision.notify import Notifier
from server.supervision.ports import bind_port, hold_port, notice_absence, spoken_address
from server.supervision.rereading import Rereading
from server.supervision.socket_directory import socket_directory
from server.supervision.supervisor import Supervisor
from workers.runtime.arena import arena_bytes
from workers.runtime.bells import make_eventfds
from workers.runtime.log_lines import Speaker
from workers.runtime.logs import flush, log_environment, set_up_logging
from workers.runtime.memory import create_memory
from workers.runtime.printed import stdout_logged
from workers.runtime.queues import queues_bytes, ring_bytes
from workers.runtime.spec import CombinerSpec, MemorySpec, QueuesSpec, WorkerSpec

__all__ = ["check", "serve"]

_log = logging.getLogger(__name__)
_BACKLOG = 2048


def serve(config: Config, read: Callable[[], Config]) -> int:
    """Serve a configuration until told to stop; the process's exit code.

    Prints ``ready http=HOST:PORT grpc=HOST:PORT`` on stdout once the server takes traffic.

    Args:
        config: what to serve.
        read: reads the same configuration again, for SIGHUP.

    Raises:
        ConfigError: if what the user wrote is wrong.
        StartError: if the server can't start, or can't be kept alive.
    """
    speaker = Speaker("supervisor")
    setproctitle(speaker.title)
    set_up_logging(speaker, config.server.log_level, config.server.log_format)
    notifier = Notifier(os.environ)
    notifier.starting()
    rereading = Rereading(config, read)
    for warning in rereading.credentials.warnings:
        _log.warning("%s", warning)
    http = bind_port(config.server.host, config.server.http_port)
    grpc = hold_port(config.server.host, config.server.grpc_port)
    log = partial(_log.info, "%s")
    with stdout_logged("the supervisor"):
        plan = make_plan(config, profile_s=config.placement.profile_s, log=log)
    for line in plan.describe():
        log(line)
    try:
        with socket_directory() as sockets:
            asyncio.run(
                _supervise(
                    config,
                    plan,
                    sockets=sockets,
                    http=http,
                    grpc=grpc,
                    rereading=rereading,
                    notifier=notifier,
                )
            )
    finally:
        flush()
    return 0


def check(config: Config) -> str:
    """Validate a configuration without starting anything; a report for people.

    Raises:
        ConfigError, StartError: as `serve` would.
    """
    warnings = [f"warning: {line}" for line in read_credentials(config.server).warnings]
    plan = make_plan(config, profile_s=0.0)
    lines = [
        f"{model.served.name}: {', '.join(model.members)} -> "
        f"{model.served.spec.output.datatype} {list(model.served.spec.output.shape)}"
        for model in plan.composition.models
    ]
    return "\n".join([*lines, *plan.describe(), *warnings, "the configuration is valid"])


def _client_limits(limits: LimitsConfig) -> ClientLimits:
    return ClientLimits(
        header_s=limits.header_s,
        header_bytes=int(limits.header_bytes),
        body_s=limits.body_s,
        idle_s=limits.idle_s,
        write_s=limits.write_s,
        connections=limits.connections,
        calls=limits.calls,
        waiting_bytes=int(limits.waiting_bytes),
        unread_bytes=int(limits.unread_bytes),
    )


def _say(line: str) -> None:
    """Print a line; that nobody may read any more is no reason to end."""
    with contextlib.suppress(OSError):
        echo(line)


async def _supervise(
    config: Config,
    plan: Plan,
    *,
    sockets: str,
    http: socket.socket,
    grpc: socket.socket,
    rereading: Rereading,
    notifier: Notifier,
) -> None:
    notice_absence(http)
    http.listen(_BACKLOG)
    arenas = plan.composition.arenas
    processes = ("front-end", "combiner", *(f"worker {device.name}" for device in plan.devices))
    queues = QueuesSpec(
        offset=arenas[-1].offset + arena_bytes(arenas[-1]),
        ring_bytes=ring_bytes(plan.composition.instances.values()),
        processes=processes,
        devices=tuple(device.name for device in plan.devices),
        bells=make_eventfds(len(processes)) if config.server.bell == "eventfd" else (),
    )
    nbytes = queues.offset + queues_bytes(queues)
    memory = MemorySpec(create_memory(nbytes), nbytes, processes, arenas, queues)
    ready = f"ready http={spoken_address(http)} grpc={spoken_address(grpc)}"
    supervisor = Supervisor(
        front_end=_front_end(
            config,
            plan,
            memory=memory,
            sockets=sockets,
            http=http,
            grpc=grpc,
            rereading=rereading,
        ),
        workers=tuple(
            WorkerSpec(
                device, 0, plan.composition.instances[device.name], memory, sockets, plan.tracing
            )
            for device in plan.devices
        ),
        combiner=CombinerSpec(memory, sockets),
        memory=memory,
        environment=log_environment(config.server.log_level, config.server.log_format),
        rereading=rereading,
        notifier=notifier,
        drain_s=config.server.drain_delay_s + config.server.drain_s,
        on_ready=lambda: _say(ready),
    )
    await supervisor.run()


def _front_end(
    config: Config,
    plan: Plan,
    *,
    memory: MemorySpec,
    sockets: str,
    http: socket.socket,
    grpc: socket.socket,
    rereading: Rereading,
) -> FrontEndSpec:
    server = config.server
    return FrontEndSpec(
        epoch=0,
        workers=(),
        starting=(),
        devices=tuple(plan.devices),
        memory=memory,
        sockets=sockets,
        instances=plan.composition.instances,
        models=plan.composition.models,
        http_fd=http.fileno(),
        grpc_address=spoken_address(grpc),
        max_request_bytes=int(server.max_request_bytes),
        queue=QueueLimits(
            server.limits.queue_s,
            server.max_waiting_requests,
            server.limits.waiting_rows,
            int(server.limits.waiting_bytes),
        ),
        max_image_pixels=server.max_image_pixels,
        limits=_client_limits(server.limits),
        drain_delay_s=server.drain_delay_s,
        access_log=server.access_log,
        tracing=plan.tracing,
        security=rereading.credentials.spec,
    )
