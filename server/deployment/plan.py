"""Makes the plan of what will be served where, without taking traffic.

Runs in the process that becomes the supervisor, for `serve` and `check`. The configuration flows
in, a `DeploymentPlan` flows out, through the steps of `server.members`, `server.profiling` and this
package. Whatever can be found wrong before processes are started is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.deployment.devices import arena_budget_bytes, find_devices
from server.deployment.placement import PlacementResult, place, read_allocation
from server.deployment.report import summary
from server.errors import ConfigError
from server.members.augmentation import try_functions
from server.members.composition import Composition, compose
from server.members.files import local_files
from server.members.inspect import inspect_members
from server.members.rules import inspect_rules
from server.profiling.progress import progress_on_stderr
from workers.runtime.spec import DeviceSpec, TracingSpec

__all__ = ["DeploymentPlan", "make_plan", "tracing_spec"]

_TRACING_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


@dataclass(frozen=True)
class DeploymentPlan:
    """What will be served where, on the devices that members run on.

    `placement` is None if the matrix was read from a file, `tracing` (where spans are exported
    to) if requests are not traced.
    """

    devices: tuple[DeviceSpec, ...]
    matrix: AllocationMatrix
    composition: Composition
    placement: PlacementResult | None
    tracing: TracingSpec | None

    def describe(self) -> Iterator[str]:
        """Yield what runs where, and how good that is, in lines for people."""
        for device in self.matrix.devices:
            instances = (
                f"{member} x{batch}"
                for name, member, batch in self.matrix.instances()
                if name == device
            )
            yield f"{device}: {', '.join(instances) or 'not used'}"
        if self.placement is not None:
            yield summary(self.placement.allocation)
            if estimated := self.placement.found.estimated:
                names = ", ".join(dict.fromkeys(member for member, _ in estimated))
                yield f"that rests on estimates, `ensembled profile` measures: {names}"


def make_plan(
    config: Config, *, profile_s: float, log: Callable[[str], None] | None = None
) -> DeploymentPlan:
    """Plan what will be served where; profiling may take `profile_s`, and is logged.

    Raises:
        ConfigError: if the configuration is wrong.
        StartError: if a model can't be built or inspected.
    """
    tracing = tracing_spec(config)
    config = local_files(config)
    members = inspect_members(config)
    findings = inspect_rules(config, members)
    try_functions(config, members)
    devices = find_devices(config)
    placement = None
    if config.allocation == "auto":
        with progress_on_stderr(log) as on_progress:
            placement = place(
                config, members, devices, profile_s=profile_s, on_progress=on_progress
            )
        matrix = placement.allocation.matrix
    else:
        matrix = read_allocation(config, members, devices)
    composition = compose(
        config,
        members,
        matrix,
        budget_bytes=arena_budget_bytes(config),
        findings=findings,
    )
    used = tuple(device for device in devices if device.name in composition.instances)
    return DeploymentPlan(used, matrix, composition, placement, tracing)


def tracing_spec(config: Config) -> TracingSpec | None:
    """Return where spans are exported to, None if nothing is traced.

    Raises:
        ConfigError: if packages that tracing needs are missing.
    """
    tracing = config.server.tracing
    if tracing is None:
        return None
    try:
        is_installed = all(map(find_spec, _TRACING_PACKAGES))
    except ModuleNotFoundError:  # not even a parent package is there
        is_installed = False
    if not is_installed:
        raise ConfigError(
            "server.tracing: OpenTelemetry is not installed; `pip install '.[tracing]'`, "
            "or leave the section out"
        )
    return TracingSpec(tracing.url, tracing.service_name, tracing.sample)
