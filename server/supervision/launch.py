"""The composition root: from a configuration to a running server.

Runs in the process that becomes the supervisor. Whatever can be found wrong without accepting
traffic is found here, in this order: keys and certificates, ports, and what
`server.deployment.plan` checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from functools import partial
from pathlib import Path

import msgspec
from setproctitle import setproctitle

from server.config import Config, ServerConfig
from server.deployment.plan import DeploymentPlan, make_plan
from server.descriptors import check_descriptors
from server.errors import ConfigError
from server.history.database import find_history
from server.inference.spec import ClientLimits, FrontEndSpec, ModelSpec, QueueLimits, RepositorySpec
from server.members.probes import Probes
from server.security.credentials import read_credentials
from server.stdout import echo
from server.supervision.changes import ChangePlanner
from server.supervision.config_reloader import ConfigReloader, ReadConfig
from server.supervision.first_state import find_first_state, plan_first
from server.supervision.recorder import Recorder
from server.supervision.saved_state import StateFile, state_path
from server.supervision.sockets import (
    UPLOADS,
    bind_port,
    enable_keepalive,
    format_address,
    hold_port,
    socket_directory,
)
from server.supervision.supervisor import Supervisor
from server.supervision.systemd import SystemdNotifier
from server.supervision.transaction import deployment_spec
from server.supervision.watch import FileWatch
from workers.runtime.child_process import log_stdout
from workers.runtime.logs import ProcessName, flush, log_environment, set_up_logging
from workers.runtime.memory import board_bytes, create_memory
from workers.runtime.queues import make_eventfds, queues_bytes, ring_bytes
from workers.runtime.spec import (
    MemorySpec,
    QueuesSpec,
)

__all__ = ["check", "serve"]

_log = logging.getLogger(__name__)
_BACKLOG = 2048
#: Slots for workers of devices that come later.
_SPARE_DEVICES = 4


def serve(path: Path, read: ReadConfig, *, keeps_state: bool) -> int:
    """Serve a configuration until told to stop; return the process's exit code.

    Prints ``ready http=HOST:PORT grpc=HOST:PORT`` on stdout once the server accepts traffic. `read`
    reads the configuration at the path, now and for each reload. What is served is kept in case
    the server is killed, unless it `keeps_state` no more than for its life.

    Raises:
        ConfigError: if the configuration is wrong.
        StartError: if the server can't start, or can't be kept alive.
    """
    on_disk = _read_first(read)
    place = state_path(path) if keeps_state else None
    if isinstance(on_disk, ConfigError) and not (place and place.exists()):
        raise on_disk
    name = ProcessName("supervisor")
    setproctitle(name.title)
    section = on_disk.server if isinstance(on_disk, Config) else ServerConfig()
    set_up_logging(name, section.log_level, section.log_format)
    notifier = SystemdNotifier(os.environ)
    notifier.starting()
    state = StateFile(section.state_file or place if keeps_state else None)
    first = find_first_state(on_disk, read, state)
    server = first.base.server
    reloader = ConfigReloader(first.base, read)
    for warning in reloader.credentials.warnings:
        _log.warning("%s", warning)
    http = bind_port(server.host, server.http_port)
    grpc = hold_port(server.host, server.grpc_port)
    log = partial(_log.info, "%s")
    with log_stdout("the supervisor"):
        first, plan = plan_first(first, probes := Probes.remembering(), state.links, log)
    config = plan.config
    changes = ChangePlanner(
        first.base, first.amendments, plan, probes=probes, reloader=reloader, state=state
    )
    for line in plan.describe():
        log(line)
    check_descriptors(len(plan.devices) + _SPARE_DEVICES)
    enable_keepalive(http)
    http.listen(_BACKLOG)
    ready = f"ready http={format_address(http)} grpc={format_address(grpc)}"
    try:
        with socket_directory() as sockets:
            memory = _create_memory(config, plan)
            supervisor = Supervisor(
                front_end=_front_end_spec(
                    first.base,
                    plan,
                    reloader=reloader,
                    memory=memory,
                    sockets=sockets,
                    http=http,
                    grpc=grpc,
                ),
                environment=log_environment(server.log_level, server.log_format),
                planner=changes,
                reloader=reloader,
                notifier=notifier,
                watch=_file_watch(server, changes),
                recorder=Recorder(find_history(config) if keeps_state else None),
                drain_s=server.drain_delay_s + server.drain_s,
                on_ready=partial(_on_ready, ready, changes),
            )
            asyncio.run(supervisor.run())
        state.remove()
    finally:
        flush()
    return 0


def _read_first(read: ReadConfig) -> Config | ConfigError:
    try:
        return read(None)
    except ConfigError as error:
        return error


def check(config: Config) -> str:
    """Validate a configuration without starting anything; return a report for people.

    Raises:
        ConfigError, StartError: as `serve` would.
    """
    warnings = [f"warning: {line}" for line in read_credentials(config.server).warnings]
    plan = make_plan(config, profile_s=0.0)
    lines = [
        f"{model.served.name}: {', '.join(model.members)} -> {_describe_outputs(model)}"
        for model in plan.composition.models
    ]
    return "\n".join([*lines, *plan.describe(), *warnings, "the configuration is valid"])


def _describe_outputs(model: ModelSpec) -> str:
    outputs = model.served.spec.outputs
    if len(outputs) == 1:
        return f"{outputs[0].datatype} {list(outputs[0].shape)}"
    return ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in outputs)


def _create_memory(config: Config, plan: DeploymentPlan) -> MemorySpec:
    """Create the shared memory with what is for the server's life, and spare slots for workers."""
    devices = (*(device.name for device in plan.devices), *[""] * _SPARE_DEVICES)
    processes = ("front-end", "combiner", *(f"worker {name}" if name else "" for name in devices))
    queues = QueuesSpec(
        offset=board_bytes(len(processes)),
        ring_bytes=ring_bytes(plan.composition.instances.values()),
        processes=processes,
        devices=devices,
        bells=make_eventfds(len(processes)) if config.server.bell == "eventfd" else (),
    )
    nbytes = queues.offset + queues_bytes(queues)
    return MemorySpec(create_memory(nbytes), nbytes, processes, queues)


def _front_end_spec(
    base: Config,
    plan: DeploymentPlan,
    *,
    reloader: ConfigReloader,
    memory: MemorySpec,
    sockets: str,
    http: socket.socket,
    grpc: socket.socket,
) -> FrontEndSpec:
    server, limits = base.server, base.server.limits
    return FrontEndSpec(
        epoch=0,
        workers=(),
        starting=(),
        devices=plan.devices,
        memory=memory,
        sockets=sockets,
        deployment=deployment_spec(plan, base, memory.fd, 1),
        http_fd=http.fileno(),
        grpc_address=format_address(grpc),
        max_request_bytes=server.max_request_bytes,
        max_json_bytes=server.max_json_bytes,
        queue=QueueLimits(
            queue_s=limits.queue_s,
            waiting_requests=server.max_waiting_requests,
            waiting_rows=limits.waiting_rows,
            answer_bytes=limits.waiting_bytes,
        ),
        max_image_pixels=server.max_image_pixels,
        limits=msgspec.convert(limits.model_dump(), ClientLimits),  # a subset of the same keys
        drain_delay_s=server.drain_delay_s,
        access_log=server.access_log,
        refuses_unknown_parameters=server.unknown_parameters == "refuse",
        repository=RepositorySpec(
            allows_control=server.repository.control == "explicit",
            allows_overrides=server.repository.overrides,
            uploads=str(Path(sockets, UPLOADS)),
        ),
        tracing=plan.tracing,
        security=reloader.credentials.spec,
    )


def _file_watch(server: ServerConfig, changes: ChangePlanner) -> FileWatch | None:
    return FileWatch(changes.watched_files, server.watch_debounce_s) if server.watch else None


def _on_ready(line: str, changes: ChangePlanner) -> None:
    """Keep what is served, and print a line; a closed stdout is no reason to stop."""
    changes.save(1)
    with contextlib.suppress(OSError):
        echo(line)
