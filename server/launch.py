"""The composition root: from a configuration to a running server.

Runs in the process that becomes the supervisor. Everything that can be found wrong without taking
traffic is found here, in this order: recipes, models, placement, agreement between members.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import sys
import tempfile

from setproctitle import setproctitle

from allocator.matrix import AllocationMatrix
from server.compose import Composition, compose
from server.config import Config
from server.errors import StartError
from server.front_end_spec import FrontEndSpec
from server.members import know_members
from server.planning.allocation_file import read_allocation
from server.planning.placement import (
    Placement,
    arena_budget_bytes,
    find_devices,
    place,
)
from server.planning.report import summary
from server.profiling.progress import progress_on_stderr
from server.supervisor import Supervisor
from workers.arena import arena_bytes
from workers.memory import board_bytes, create_memory
from workers.spec import (
    CombinerSpec,
    DeviceSpec,
    MemorySpec,
    WorkerSpec,
)

__all__ = ["check", "serve"]

_log = logging.getLogger(__name__)
_BACKLOG = 2048


def serve(config: Config) -> int:
    """Serve a configuration until told to stop; the process's exit code.

    Prints ``ready http=HOST:PORT`` on stdout once the server takes traffic.

    Raises:
        ConfigError: if what the user wrote is wrong.
        StartError: if the server can't start, or can't be kept alive.
    """
    setproctitle("ensembled")
    logging.basicConfig(
        level=config.server.log_level.upper(),
        format="%(asctime)s %(levelname)s ensembled: %(message)s",
        stream=sys.stderr,
    )
    listener = _listen(config.server.host, config.server.http_port)
    plan = _plan(config, profile_s=config.placement.profile_s)
    for line in plan.describe():
        _log.info("%s", line)
    sockets = tempfile.mkdtemp(prefix="ensembled-")  # readable by the owner only
    try:
        asyncio.run(_supervise(config, plan, sockets, listener))
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    return 0


def check(config: Config) -> str:
    """Validate a configuration without starting anything; a report for people.

    Raises:
        ConfigError, StartError: as `serve` would.
    """
    plan = _plan(config, profile_s=0.0)
    lines = [
        f"{model.served.name}: {', '.join(model.members)} -> "
        f"{model.served.spec.output.datatype} {list(model.served.spec.output.shape)}"
        for model in plan.composition.models
    ]
    return "\n".join([*lines, *plan.describe(), "the configuration is valid"])


class _Plan:
    """What will be served where."""

    def __init__(
        self,
        devices: list[DeviceSpec],
        matrix: AllocationMatrix,
        composition: Composition,
        placement: Placement | None,
    ) -> None:
        self.devices = [device for device in devices if device.name in composition.instances]
        self.matrix = matrix
        self.composition = composition
        self._placement = placement

    def describe(self) -> list[str]:
        """What runs where, and how good that is, in lines for people."""
        lines = [
            f"{device}: "
            + (
                ", ".join(
                    f"{member} x{batch}"
                    for on, member, batch in self.matrix.instances()
                    if on == device
                )
                or "not used"
            )
            for device in self.matrix.devices
        ]
        if self._placement is not None:
            lines.append(summary(self._placement.allocation))
            if estimated := self._placement.found.estimated:
                names = ", ".join(dict.fromkeys(member for member, _ in estimated))
                lines.append(f"that rests on estimates, `ensembled profile` measures: {names}")
        return lines


def _plan(config: Config, *, profile_s: float) -> _Plan:
    members = know_members(config)
    devices = find_devices(config)
    placement = None
    if config.allocation == "auto":
        with progress_on_stderr() as on_progress:
            placement = place(
                config, members, devices, profile_s=profile_s, on_progress=on_progress
            )
        matrix = placement.matrix
    else:
        matrix = read_allocation(config, members, devices)
    composition = compose(
        config,
        members,
        matrix,
        budget_bytes=arena_budget_bytes(config),
        offset=board_bytes(len(devices) + 2),
    )
    return _Plan(devices, matrix, composition, placement)


def _listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything slow: whether it is free is known at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise StartError(f"can't listen on {host}:{port}: {error.strerror}") from None
    return listener


async def _supervise(config: Config, plan: _Plan, sockets: str, listener: socket.socket) -> None:
    listener.listen(_BACKLOG)
    arenas = plan.composition.arenas
    processes = ("front-end", "combiner", *(f"worker {device.name}" for device in plan.devices))
    nbytes = arenas[-1].offset + arena_bytes(arenas[-1])
    memory = MemorySpec(create_memory(nbytes), nbytes, processes, arenas)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    supervisor = Supervisor(
        front_end=FrontEndSpec(
            epoch=0,
            workers=(),
            memory=memory,
            sockets=sockets,
            instances=plan.composition.instances,
            models=plan.composition.models,
            http_fd=listener.fileno(),
            max_request_bytes=int(config.server.max_request_bytes),
            max_waiting_requests=config.server.max_waiting_requests,
            max_image_pixels=config.server.max_image_pixels,
            log_level=config.server.log_level,
        ),
        workers=tuple(
            WorkerSpec(device, 0, plan.composition.instances[device.name], memory, sockets)
            for device in plan.devices
        ),
        combiner=CombinerSpec(memory, sockets),
        memory=memory,
        drain_s=config.server.drain_s,
        on_ready=lambda: print(f"ready http={address}", flush=True),
    )
    await supervisor.run()
