"""The problem whose best allocations say what sets of members cost.

Runs in the process of the command line. Inspected members flow in; they are profiled on this host,
or a profiles file knows them; a `Problem` over all of them flows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from allocator.problem import Device, Problem
from allocator.profiles import Profiles
from server.config import Config
from server.config.root import MAX_MEMBERS
from server.deployment.devices import find_devices
from server.deployment.experience import corrected_by
from server.deployment.placement import placement_problem
from server.errors import ConfigError
from server.history.windows import Served
from server.members.inspect import InspectedMember
from server.profiling import OnProgress, placed_devices, profile_members
from server.selection.isolation import isolated
from server.selection.library import with_members

__all__ = ["Pool", "library_problem"]


@dataclass(frozen=True)
class Pool:
    """What members are to be placed on, and what they cost there, as far as files say it.

    Attributes:
        devices: None for those of the library, or else of this host.
        idle_watts: by device, what it draws as soon as it has an instance.
        profiles: None to measure them.
        served: by servers before, by which profiles are corrected.
    """

    devices: tuple[Device, ...] | None = None
    idle_watts: Mapping[str, float] = field(default_factory=dict)
    profiles: Profiles | None = None
    served: tuple[Served, ...] = ()


def library_problem(
    config: Config,
    members: Sequence[InspectedMember],
    pool: Pool,
    left_out: dict[str, str],
    *,
    energy: bool,
    on_progress: OnProgress,
) -> Problem:
    """Return the problem of placing all members of a library; it may be more than are served.

    Members that can't run on any device, or have no profile, are added to `left_out`. With
    `energy`, that of their batches is measured, too.

    Raises:
        ConfigError: if no member is left, or there are no profiles for a kind of device.
    """
    if pool.profiles is None:
        problem = _measured(config, members, left_out, energy, on_progress)
    else:
        devices = pool.devices or placed_devices(find_devices(config))
        problem = Problem(tuple(one.name for one in members), devices, pool.profiles)
    problem, _ = corrected_by(pool.served, problem, members)
    if pool.devices is not None:
        _check_kinds(pool.devices, problem.profiles)
        # What serving costs this host says nothing about the devices of a file.
        problem = replace(problem, devices=pool.devices, row_s={}, idle_watts=dict(pool.idle_watts))
    return _without_profile(problem, left_out)


def _measured(
    config: Config,
    members: Sequence[InspectedMember],
    left_out: dict[str, str],
    energy: bool,
    on_progress: OnProgress,
) -> Problem:
    """Profile members on the devices of this host, as many at once as a server may have."""
    devices, by_name = find_devices(config), {member.name: member for member in members}

    def measure(names: Sequence[str]) -> Mapping[str, Problem]:
        part = [by_name[name] for name in names]
        alone = with_members(config, {one.name: one.config for one in part})
        found = profile_members(alone, part, devices, energy=energy, on_progress=on_progress)
        problem = placement_problem(alone, part, devices, found)
        return dict.fromkeys(names, problem)

    problems: dict[str, Problem] = {}
    names = list(by_name)
    for start in range(0, len(names), MAX_MEMBERS):
        problems |= isolated(names[start : start + MAX_MEMBERS], measure, left_out)
    if not problems:
        raise ConfigError([f"{name}: {why}" for name, why in left_out.items()])
    parts = list({id(one): one for one in problems.values()}.values())
    profiles = Profiles(profile for part in parts for profile in part.profiles)
    return replace(parts[0], members=tuple(problems), profiles=profiles)


def _check_kinds(devices: Sequence[Device], profiles: Profiles) -> None:
    known = {one.device_kind for one in profiles}
    missing = dict.fromkeys(one.kind for one in devices if one.kind not in known)
    if missing:
        there = ", ".join(sorted(known))
        raise ConfigError(
            f"--devices: there are no profiles for {', '.join(missing)}, only for {there}: give "
            "--profiles (`ensembled profile --output` on such a host writes them)"
        )


def _without_profile(problem: Problem, left_out: dict[str, str]) -> Problem:
    """Return the problem of the members that run on one of the devices at least."""
    kinds = dict.fromkeys(device.kind for device in problem.devices)
    known = [
        name for name in problem.members if any(problem.profiles.of(name, kind) for kind in kinds)
    ]
    for name in set(problem.members) - set(known):
        left_out[name] = f"has no profile for {', '.join(kinds)}"
    if not known:
        raise ConfigError(f"no member of the library has a profile for {', '.join(kinds)}")
    return replace(problem, members=tuple(known))
