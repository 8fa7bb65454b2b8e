"""Makes the plan of what will be served where, without taking traffic.

Runs in the process that becomes the supervisor, for `serve` and `check`. The configuration flows
in, a `DeploymentPlan` flows out, through the steps of `server.members`, `server.profiling` and this
package. Whatever can be found wrong before processes are started is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import MappingProxyType

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.deployment.devices import arena_budget_bytes, find_devices
from server.deployment.division import divided_devices, profiled_devices
from server.deployment.links import Links
from server.deployment.placement import (
    PlacementResult,
    matrix_problems,
    place,
    read_allocation,
    read_matrix,
)
from server.deployment.report import summary
from server.deployment.rollouts import rollout_specs
from server.errors import ConfigError
from server.members.augmentation import try_functions
from server.members.composition import Composition, RunningVariant, compose
from server.members.ensembles import RuleFindings
from server.members.files import local_files
from server.members.inspect import InspectedMember, inspect_members
from server.members.probes import EACH_TIME, Probes
from server.members.rules import inspect_rules
from server.profiling import Measurements, profile_members
from server.profiling.progress import progress_on_stderr
from server.rollout.spec import RolloutSpec
from workers.runtime.spec import DeviceSpec, ModelSource, TracingSpec

__all__ = ["DeploymentPlan", "Models", "find_models", "make_plan", "planned", "tracing_spec"]

#: Of commands, which end before a file can change.
NO_LINKS = Links(None)

_TRACING_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


@dataclass(frozen=True)
class Models:
    """What is served: inspected members, and what trying the ensembles' rules has shown.

    The files of `config` are all on this machine.
    """

    config: Config
    members: tuple[InspectedMember, ...]
    findings: RuleFindings

    @property
    def sources(self) -> list[ModelSource]:
        """The models, those of members and of their variants first."""
        metas = [found.meta for found in self.findings.values() if found.meta is not None]
        return [*self.member_sources.values(), *metas]

    @property
    def member_sources(self) -> dict[str, ModelSource]:
        """The models of members and of their variants, by the server's names."""
        return {form.name: form.source for member in self.members for form in member.forms}


@dataclass(frozen=True)
class DeploymentPlan:
    """What will be served where.

    Attributes:
        devices: those that members run on.
        all_devices: those that they may run on, with parts in place of those that are divided.
        undivided: the devices of the host, or of the configuration.
        found: what the members cost.
        placement: None if the matrix was not searched for.
        tracing: where spans are exported to, if requests are traced.
    """

    models: Models
    devices: tuple[DeviceSpec, ...]
    all_devices: tuple[DeviceSpec, ...]
    undivided: tuple[DeviceSpec, ...]
    matrix: AllocationMatrix
    composition: Composition
    found: Measurements
    placement: PlacementResult | None
    tracing: TracingSpec | None

    @property
    def rollouts(self) -> tuple[RolloutSpec, ...]:
        """The roll-outs of its models."""
        return rollout_specs(self.config)

    @property
    def config(self) -> Config:
        """The configuration that it serves."""
        return self.models.config

    @property
    def instance_sources(self) -> dict[tuple[str, str], ModelSource]:
        """By device and member, the model that runs there."""
        return {
            (device, one.source.member): one.source
            for device, instances in self.composition.instances.items()
            for one in instances
        }

    @property
    def is_followed(self) -> bool:
        """Whether its allocation follows the traffic; that of a file does not."""
        return self.config.placement.follow and self.config.allocation == "auto"

    def describe(self) -> Iterator[str]:
        """Yield what runs where, and how good that is, in lines for people."""
        for device in self.matrix.devices:
            instances = (
                f"{member} x{batch}"
                for name, member, batch in self.matrix.instances()
                if name == device
            )
            yield f"{device}: {', '.join(instances) or 'not used'}"
        kinds = {device.name: device.kind for device in self.devices}
        for member, kind in dict.fromkeys((one, kinds[d]) for d, one, _ in self.matrix.instances()):
            if variant := self.found.variants.get((member, kind)):
                yield f"{member} runs as {variant} on {kind}"
        if self.placement is not None:
            yield summary(self.placement.allocation)
            if estimated := self.placement.found.estimated:
                names = ", ".join(dict.fromkeys(member for member, _ in estimated))
                yield f"that rests on estimates, `ensembled profile` measures: {names}"


def make_plan(
    config: Config,
    *,
    profile_s: float,
    log: Callable[[str], None] | None = None,
    probes: Probes = EACH_TIME,
    preferred: AllocationMatrix | None = None,
    formers: Mapping[str, ModelSource] = MappingProxyType({}),
    links: Links = NO_LINKS,
) -> DeploymentPlan:
    """Plan what will be served where; profiling may take `profile_s`, and is logged.

    An allocation that is not in a file is the preferred one, if that fits. `formers` and `links`
    are as for `find_models`.

    Raises:
        ConfigError: if the configuration is wrong.
        StartError: if a model can't be built or inspected.
    """
    tracing = tracing_spec(config)
    models = find_models(config, probes, formers=formers, links=links)
    config, members = models.config, models.members
    devices = tuple(find_devices(config))
    if config.allocation != "auto" or preferred is not None:
        matrix = preferred if config.allocation == "auto" else read_matrix(config.allocation)
        assert matrix is not None, "one of the two is there"
        profiled = profiled_devices(config, devices, matrix.devices)
        found = profile_members(config, members, profiled, budget_s=0.0)
        if config.allocation != "auto":
            matrix = read_allocation(config, devices, found)
        if not any(matrix_problems(matrix, config, devices, found)):
            return planned(models, devices, matrix, found, placement=None, tracing=tracing)
    with progress_on_stderr(log) as on_progress:
        placement = place(config, members, devices, profile_s=profile_s, on_progress=on_progress)
    matrix, found = placement.allocation.matrix, placement.found
    return planned(models, devices, matrix, found, placement=placement, tracing=tracing)


def find_models(
    config: Config,
    probes: Probes,
    *,
    formers: Mapping[str, ModelSource] = MappingProxyType({}),
    links: Links = NO_LINKS,
) -> Models:
    """Find out what there is to know of a configuration's models, and keep links to their files.

    Members that have `formers` by name stay what these are, see `inspect_members`.

    Raises:
        ConfigError: if a model or a rule can't be used, or members disagree.
        StartError: if a model can't be fetched or built.
    """
    config = local_files(config)
    inspected = inspect_members(config, probes, formers=formers)
    members = [_with_links(member, links) for member in inspected]
    findings = {
        key: replace(found, meta=found.meta and links.keep(found.meta))
        for key, found in inspect_rules(config, members, probes).items()
    }
    try_functions(config, members, probes)
    return Models(config, tuple(members), findings)


def _with_links(member: InspectedMember, links: Links) -> InspectedMember:
    variants = tuple(_with_links(variant, links) for variant in member.variants)
    return replace(member, source=links.keep(member.source), variants=variants)


def planned(
    models: Models,
    devices: Sequence[DeviceSpec],
    matrix: AllocationMatrix,
    found: Measurements,
    *,
    placement: PlacementResult | None,
    tracing: TracingSpec | None,
    first_arena: int = 0,
    first_instance: int = 0,
) -> DeploymentPlan:
    """Return the plan to serve models by a matrix over devices, or parts of them.

    Arenas and instances are numbered from there on.

    Raises:
        ConfigError: if members disagree, or the arenas don't fit their budget.
    """
    parts = divided_devices(devices, matrix.devices)
    composition = compose(
        models.config,
        models.members,
        matrix,
        budget_bytes=arena_budget_bytes(models.config),
        first_arena=first_arena,
        first_instance=first_instance,
        findings=models.findings,
        variants={
            (member, device.name): RunningVariant(variant, kind)
            for (member, kind), variant in found.variants.items()
            for device in parts
            if device.kind == kind
        },
    )
    return DeploymentPlan(
        models=models,
        devices=tuple(part for part in parts if part.name in composition.instances),
        all_devices=parts,
        undivided=tuple(devices),
        matrix=matrix,
        composition=composition,
        found=found,
        placement=placement,
        tracing=tracing,
    )


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
