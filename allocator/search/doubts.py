"""Asks whether predicted latencies leave open which allocation is the best, and which ones do.

Pure, used by profiling within a budget. A problem flows in, some of whose profiles are predictions
with intervals; a `Doubt` flows out.

The rule is that of combinatorial pure exploration (CLUCB, Chen et al., NIPS 2014).
Let A be the best allocation at the predicted latencies. Put what A uses at the slow end of its
interval, everything else at the fast end, and let B be the best allocation then. If B is no faster
than A even so, no latencies within the intervals would change the choice. Otherwise the two differ
in an instance that nobody has measured, and the least certain of these is worth measuring next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from allocator.problem import Cells, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.rebuild import Rebuilder
from allocator.search.throughput import solve_throughput

__all__ = ["Doubt", "find_doubt"]

#: How often a first allocation is rebuilt: near the best is enough to know what to measure.
_REBUILDS = 8
#: Devices' time below this share is nothing.
_LEAST_SHARE = 1e-6
#: What both allocations use counts last: where memory decides, its place does not differ.
_LEAST_WEIGHT = 1e-3

#: The member, the kind of device and the batch size of an instance.
_Key = tuple[str, str, int]


@dataclass(frozen=True)
class Doubt:
    """How far the choice of an allocation rests on predictions.

    Attributes:
        share: by how much more rows/s another allocation may have than the one that seems best, at
            the ends of the intervals that favour it; 0.0 if none may, infinite if that one may not
            fit the memory, or no place for all members was found.
        points: predictions that decide about it, the most worth measuring first; empty only if
            the best allocation is certain, or nothing is predicted.
    """

    share: float
    points: tuple[Profile, ...]


def find_doubt(problem: Problem, *, seed: int = 0) -> Doubt:
    """Return how certain the best allocation is, and what to measure to be more so."""
    predicted = {_key(one): one for one in problem.profiles if one.interval_s is not None}
    if not predicted:
        return Doubt(0.0, ())
    best = _best(problem, seed)
    if tight := _may_not_fit(problem, best):
        return Doubt(math.inf, tight)
    _, used = _judged(problem, best)
    contrary = replace(problem, profiles=Profiles(_at_end(one, used) for one in problem.profiles))
    other = _best(contrary, seed, best)
    slow, _ = _judged(contrary, best)
    fast, rivals = _judged(contrary, other)
    if 0 < fast <= slow:
        return Doubt(0.0, ())
    weights = {
        key: (_LEAST_WEIGHT + abs(used.get(key, 0.0) - rivals.get(key, 0.0))) * _width(one)
        for key, one in predicted.items()
        if not fast or key in used or key in rivals
    }
    points = sorted(weights, key=weights.__getitem__)
    share = fast / slow - 1 if slow else math.inf
    return Doubt(share, tuple(predicted[key] for key in reversed(points)))


def _may_not_fit(problem: Problem, cells: Cells) -> tuple[Profile, ...]:
    """Return the predictions of an allocation that may not fit, those of widest memory first."""
    most = Profiles(
        replace(one, memory_bytes=one.interval_bytes[1]) if one.interval_bytes else one
        for one in problem.profiles
    )
    used = replace(problem, profiles=most).used_bytes(cells)
    if (used <= problem.capacity_bytes).all():
        return ()
    placed = {
        problem.profile(device, member, int(cells[device, member]))
        for device, member in np.argwhere(cells)
    }
    spread = {one: one.interval_bytes[1] - one.interval_bytes[0]
              for one in placed if one.interval_bytes}  # fmt: skip
    return tuple(sorted(spread, key=lambda one: (-spread[one], _key(one))))


def _best(problem: Problem, seed: int, *known: Cells) -> Cells:
    """Return a good allocation, incomplete if none was found; no worse than those known."""
    rebuilder = Rebuilder(problem, seed)
    built = [rebuilder.build(), *map(rebuilder.judge, known)]
    found = max(built, key=lambda one: one.throughput)
    for _ in range(_REBUILDS):
        found = max(found, rebuilder.improve(found, 0.0), key=lambda one: one.throughput)
    return found.cells


def _key(one: Profile) -> _Key:
    return one.member, one.device_kind, one.batch


def _width(one: Profile) -> float:
    """The width of an interval, as the logarithm of a ratio."""
    assert one.interval_s is not None
    return math.log(one.interval_s[1] / one.interval_s[0])


def _at_end(one: Profile, used: Mapping[_Key, float]) -> Profile:
    """A profile at the ends of its intervals that speak against those that are used."""
    if one.interval_s is None:
        return one
    low, high = one.interval_s
    least = one.interval_bytes[0] if one.interval_bytes else one.memory_bytes
    latency_s = high if _key(one) in used else low
    return replace(
        one, latency_s=latency_s, memory_bytes=least, interval_s=None, interval_bytes=None
    )


def _judged(problem: Problem, cells: Cells) -> tuple[float, dict[_Key, float]]:
    """The throughput of an allocation, and the devices' time that its instances take for that."""
    throughput, times = solve_throughput(problem, cells)
    shares: dict[_Key, float] = {}
    for device, member in np.argwhere(times > _LEAST_SHARE):
        kind = problem.devices[device].kind
        key = (problem.members[member], kind, int(cells[device, member]))
        shares[key] = shares.get(key, 0.0) + float(times[device, member])
    return throughput, shares
