"""The plan: what will be served where, found out without taking traffic.

Used in the process that becomes the supervisor, by `serve` and by `check`. The configuration flows
in, a `Plan` flows out. Recipes, models, rules, placement, and whether members agree: all that can
be found wrong is found here.
"""

from __future__ import annotations

from collections.abc import Callable

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.deployment.allocation_file import read_allocation
from server.deployment.placement import Placement, arena_budget_bytes, find_devices, place
from server.deployment.report import summary
from server.deployment.tracing import tracing_spec
from server.members.composition import Composition, compose
from server.members.inspect import inspect_members
from server.members.rules import inspect_rules
from server.profiling.progress import progress_on_stderr
from workers.runtime.memory import board_bytes
from workers.runtime.spec import DeviceSpec, TracingSpec

__all__ = ["Plan", "make_plan"]


class Plan:
    """What will be served where.

    Attributes:
        devices: those that members are on.
        matrix: which member runs on which device.
        composition: the models, and the arenas and instances behind them.
        tracing: where spans go, if requests are traced.
    """

    def __init__(
        self,
        devices: list[DeviceSpec],
        matrix: AllocationMatrix,
        composition: Composition,
        placement: Placement | None,
        tracing: TracingSpec | None,
    ) -> None:
        self.devices = [device for device in devices if device.name in composition.instances]
        self.matrix = matrix
        self.composition = composition
        self.tracing = tracing
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


def make_plan(
    config: Config, *, profile_s: float, log: Callable[[str], None] | None = None
) -> Plan:
    """Find out what will be served where.

    Args:
        config: what is to be served.
        profile_s: how long members may be measured whose costs are not known.
        log: is told how that goes, a line at a time.

    Raises:
        ConfigError: if what the user wrote is wrong.
        StartError: if a model can't be made or inspected.
    """
    tracing = tracing_spec(config)
    members = inspect_members(config)
    metas = inspect_rules(config, members)
    devices = find_devices(config)
    placement = None
    if config.allocation == "auto":
        with progress_on_stderr(log) as on_progress:
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
        metas=metas,
    )
    return Plan(devices, matrix, composition, placement, tracing)
