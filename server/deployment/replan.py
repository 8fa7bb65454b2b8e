"""Makes the plan of another deployment for a server that runs, without measuring anything.

Runs in the supervisor. The configuration as it is now and the plan that is served flow in, a
`DeploymentPlan` flows out. Whatever can be found wrong is found here, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.deployment.devices import find_devices
from server.deployment.division import profiled_devices
from server.deployment.links import Links
from server.deployment.placement import matrix_problems, place, read_allocation, read_matrix
from server.deployment.plan import NO_LINKS, DeploymentPlan, Models, find_models, planned
from server.errors import ConfigError
from server.members.inspect import InspectedMember
from server.members.probes import Probes
from server.profiling import Measurements, profile_members
from server.profiling.variants import with_former
from workers.runtime.spec import DeviceSpec

__all__ = ["replan"]

#: A retrained model is about as large as before; one that is not costs something else.
_LIKE_SIZE = 1.1


def replan(
    config: Config,
    current: DeploymentPlan,
    *,
    probes: Probes,
    matrix: AllocationMatrix | None = None,
    refreshed: Collection[str] | None = None,
    links: Links = NO_LINKS,
    first_arena: int = 0,
    first_instance: int = 0,
) -> DeploymentPlan:
    """Plan what a running server is to serve next.

    The present matrix is kept as long as members, devices and placement are what they were;
    otherwise the allocation is searched anew. A member whose model has changed keeps its profile
    until there is one of the new model; others without a profile are estimated, since nothing is
    measured on devices that are busy.

    Args:
        config: the configuration, whose versions are expanded.
        current: the plan that is served.
        probes: those that remember what the plan before has found out.
        matrix: what to serve by, in place of the configuration's allocation.
        refreshed: members (by the server's names) whose files are looked at; None for all. Others
            stay what they are, as long as their sections do.
        links: keep the files of models.
        first_arena: the number of the first arena.
        first_instance: the number of the first instance.

    Raises:
        ConfigError: if the configuration is wrong, or the matrix does not fit it.
        StartError: if a model can't be fetched, built or inspected.
    """
    formers = {
        form.name: form.source
        for member in current.models.members
        if refreshed is not None and member.name not in refreshed
        for form in member.forms
    }
    models = find_models(config, probes, formers=formers, links=links)
    devices = _devices(models.config, current)
    allocation = models.config.allocation
    named = matrix or (current.matrix if allocation == "auto" else read_matrix(allocation))
    found = _costs(models, profiled_devices(models.config, devices, named.devices), current)
    placement = None
    if matrix is not None:
        if problems := list(matrix_problems(matrix, models.config, devices, found)):
            raise ConfigError(f"matrix: {problem}" for problem in problems)
    elif allocation != "auto":
        matrix = read_allocation(models.config, devices, found)
    elif _keeps_matrix(models, devices, found, current):
        matrix = current.matrix
        placement = current.placement
    else:
        placement = place(models.config, models.members, devices, profile_s=0.0, found=found)
        matrix = placement.allocation.matrix
    return planned(
        models,
        devices,
        matrix,
        found,
        placement=placement,
        tracing=current.tracing,
        first_arena=first_arena,
        first_instance=first_instance,
    )


def _devices(config: Config, current: DeploymentPlan) -> tuple[DeviceSpec, ...]:
    """The undivided devices; what a GPU had free before this server did, it has for the server."""
    is_divided, was_divided = (
        one.placement.threads != "device" for one in (config, current.config)
    )
    if (config.devices, is_divided) == (current.config.devices, was_divided):
        return current.undivided
    before = {device.name: device for device in current.undivided}
    explicit = {
        one.name: (one.memory_bytes, one.memory_fraction) != (None, None)
        for one in (() if config.devices == "auto" else config.devices)
    }
    devices = []
    for device in find_devices(config):
        former = before.get(device.name)
        memory_bytes = device.memory_bytes
        if former and device.uuid and former.uuid == device.uuid and not explicit.get(device.name):
            memory_bytes = max(memory_bytes, former.memory_bytes)
        devices.append(msgspec.structs.replace(device, memory_bytes=memory_bytes))
    return tuple(devices)


def _keeps_matrix(
    models: Models,
    devices: tuple[DeviceSpec, ...],
    found: Measurements,
    current: DeploymentPlan,
) -> bool:
    """Whether the members can be served where they are served now, as well as before."""
    config, before = models.config, current.config
    if (config.placement, devices) != (before.placement, current.undivided):
        return False
    members = {member.name: member for member in models.members}
    formers = {member.name: member for member in current.models.members}
    if members.keys() != formers.keys() or before.allocation != "auto":
        return False
    if not all(_is_alike(member, formers[name]) for name, member in members.items()):
        return False
    if found.variants != current.found.variants:
        return False
    problems = matrix_problems(current.matrix, config, devices, found, with_estimates=True)
    return not any(problems)


def _is_alike(member: InspectedMember, former: InspectedMember) -> bool:
    """Whether a member costs what its predecessor does, as far as can be told without measuring."""
    now, before = member.signature, former.signature
    sizes = sorted((now.parameter_bytes, before.parameter_bytes))
    return (
        (now.inputs, now.outputs) == (before.inputs, before.outputs)
        and sizes[1] <= _LIKE_SIZE * sizes[0]
        and (member.source.backend, member.source.fake is None)
        == (former.source.backend, former.source.fake is None)
        and member.config.batch_size == former.config.batch_size
        and member.config.buckets == former.config.buckets
        and member.config.augment == former.config.augment
    )


def _costs(models: Models, devices: Sequence[DeviceSpec], current: DeploymentPlan) -> Measurements:
    """What members cost: as measured once, or else what their predecessors cost, or estimated."""
    found = profile_members(models.config, models.members, devices, budget_s=0.0)
    formers = {form.name: form for member in current.models.members for form in member.forms}
    forms = [form for member in models.members for form in member.forms]
    alike = {
        form.name for form in forms if form.name in formers and _is_alike(form, formers[form.name])
    }
    return with_former(found, current.found, alike)
