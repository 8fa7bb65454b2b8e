"""Profiles, corrected by what batches of the running server have taken.

Pure, used in the supervisor. A problem and observed traffic flow in, a problem flows out whose
latencies are those observed: of members whose batches take longer or shorter than their profiles
say, and of devices that are slower or faster than others of their kind.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from statistics import median_low

from allocator.problem import Problem
from allocator.profiles import Profile, Profiles
from server.following.traffic import Traffic

__all__ = ["corrected", "slowdowns", "slowed"]

#: Of fewer batches, the time says nothing.
_FEWEST_BATCHES = 20
#: Profiles within this factor are right: batches vary with what else the machine does.
_SAME = 1.25


def corrected(problem: Problem, traffic: Traffic) -> Problem:
    """Return the problem with the profiles that explain the observed times of batches.

    The factor of a member on a kind of device is that of `slowdowns`; what remains, the median over
    the members of a device, is the device's own. Such a device becomes a kind of its own.
    """
    slower = slowdowns(problem, traffic)
    kinds = {device.name: device.kind for device in problem.devices}
    left: defaultdict[str, list[float]] = defaultdict(list)
    for name, member, ratio in _ratios(problem, traffic, _FEWEST_BATCHES):
        left[name].append(ratio / slower.get((member, kinds[name]), 1.0))
    own = {name: _clear(median_low(ratios)) for name, ratios in left.items()}
    apart = {name: f"{kinds[name]} {name}" for name, factor in own.items() if factor != 1.0}
    if not slower and not apart:
        return problem
    profiles = [*slowed(problem.profiles, slower)]
    profiles += [
        replace(_scaled(one, own[name]), device_kind=kind)
        for name, kind in apart.items()
        for one in profiles
        if one.device_kind == kinds[name]
    ]
    devices = tuple(
        replace(device, kind=apart.get(device.name, device.kind)) for device in problem.devices
    )
    return replace(problem, devices=devices, profiles=Profiles(profiles))


def slowdowns(
    problem: Problem, traffic: Traffic, *, fewest_batches: int = _FEWEST_BATCHES
) -> dict[tuple[str, str], float]:
    """Return by what factor batches took longer than profiled, by member and kind of device.

    It is the median over the devices (the lower one: it is devices that become slow, not all others
    fast). Those that are about right are left out, as are instances with fewer batches.
    """
    kinds = {device.name: device.kind for device in problem.devices}
    members: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for name, member, ratio in _ratios(problem, traffic, fewest_batches):
        members[member, kinds[name]].append(ratio)
    factors = {key: _clear(median_low(ratios)) for key, ratios in members.items()}
    return {key: factor for key, factor in factors.items() if factor != 1.0}


def slowed(
    profiles: Iterable[Profile], factors: Mapping[tuple[str, str], float]
) -> Iterator[Profile]:
    """Yield profiles whose latencies are scaled by member and kind of device."""
    for one in profiles:
        yield _scaled(one, factors.get((one.member, one.device_kind), 1.0))


def _ratios(
    problem: Problem, traffic: Traffic, fewest_batches: int
) -> Iterator[tuple[str, str, float]]:
    """Yield (device, member, observed by expected time) where there were enough batches."""
    for device in problem.devices:
        for member, seen in traffic.instances.get(device.name, {}).items():
            known = problem.profiles.of(member, device.kind)
            if known and seen.batches >= fewest_batches and seen.rows and seen.seconds:
                rows = max(round(seen.rows / seen.batches), 1)
                expected_s = problem.profiles.latency_s(member, device.kind, rows)
                yield device.name, member, seen.seconds / seen.batches / expected_s


def _clear(ratio: float) -> float:
    """A factor; 1 if it is not clearly another, in steps, so that it does not change each time."""
    if 1 / _SAME < ratio < _SAME:
        return 1.0
    return round(math.exp(round(math.log(ratio) * 10) / 10), 3)


def _scaled(profile: Profile, factor: float) -> Profile:
    return profile if factor == 1.0 else profile.at_pace(factor)
