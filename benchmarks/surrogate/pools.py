"""Pools of devices and members that the surrogate has not seen, and how well it places them.

Pure, used by the surrogate's benchmark; known profiles flow in, an `Outcome` per pool flows out. A
known profile plays the part of a measurement: it is looked up when `find_doubt` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.doubts import find_doubt
from allocator.search.search import search
from allocator.search.throughput import solve_throughput
from allocator.surrogate.surrogate import ModelNumbers, Surrogate
from server.profiling.exploration import CERTAIN

__all__ = ["Known", "Outcome", "draw_pool", "place_with_few"]

_SEARCH_S = 1.0
#: Memory of the devices, by that of all members with their smallest batches.
_TIGHTNESS = (1.5, 3.0, 8.0)


@dataclass(frozen=True)
class Known:
    """The full grid of some networks: profiles, and what the models do for a row."""

    profiles: Profiles
    models: Mapping[str, ModelNumbers]


@dataclass(frozen=True)
class Outcome:
    """How a pool was placed.

    Attributes:
        ratio: rows/s of the surrogate's placement by those of the full grid's, both by the known
            profiles; 0.0 if it does not fit.
        measured: how many batch sizes were looked up, of `grid`.
        doubt: of the last predictions.
        errors: of the predictions, relative latencies.
        held: whether their intervals held what is known.
    """

    ratio: float
    measured: int
    grid: int
    doubt: float
    errors: tuple[float, ...]
    held: tuple[bool, ...]


def draw_pool(known: Known, generator: np.random.Generator) -> Problem:
    """Return a problem of 3 to 12 members on 2 to 8 devices of 1 to 3 kinds."""
    count = int(generator.integers(3, min(12, len(known.models)) + 1))
    members = sorted(generator.choice(sorted(known.models), count, replace=False).tolist())
    kinds = sorted({one.device_kind for one in known.profiles})
    few = int(generator.integers(1, min(3, len(kinds)) + 1))
    chosen = generator.choice(kinds, few, replace=False).tolist()
    devices = int(generator.integers(2, 9))
    least = [
        min(one.memory_bytes for kind in chosen for one in known.profiles.of(name, kind).values())
        for name in members
    ]
    tight = float(generator.choice(_TIGHTNESS))
    memory = int(max(tight * sum(least) / devices, 1.5 * max(least)))
    return Problem(
        tuple(members),
        tuple(Device(f"{i}", chosen[i % few], memory) for i in range(devices)),
        Profiles(
            one for one in known.profiles if one.member in members and one.device_kind in chosen
        ),
    )


def place_with_few(known: Known, truth: Problem, most: float) -> Outcome:
    """Place a pool by at most this share of its grid, and judge that by all of it."""
    grid = {(one.member, one.device_kind, one.batch): one for one in truth.profiles}
    measured: dict[tuple[str, str, int], Profile] = {}
    while True:
        expected = _predicted(known, truth, list(measured.values()))
        doubt = find_doubt(expected)
        if doubt.share <= CERTAIN or not doubt.points or len(measured) >= int(most * len(grid)):
            break
        one = doubt.points[0]
        key = one.member, one.device_kind, one.batch
        measured[key] = grid[key]
    placed = search(expected, time_limit_s=_SEARCH_S).matrix
    best = search(truth, time_limit_s=_SEARCH_S).throughput_rows_s
    rate = 0.0
    if not truth.faults(placed):
        rate = solve_throughput(truth, truth.cells_of(placed))[0]
    guesses = [(one, grid[one.member, one.device_kind, one.batch].latency_s, one.interval_s)
               for one in expected.profiles]  # fmt: skip
    return Outcome(
        ratio=rate / best,
        measured=len(measured),
        grid=len(grid),
        doubt=doubt.share,
        errors=tuple(abs(one.latency_s / true - 1) for one, true, ends in guesses if ends),
        held=tuple(ends[0] <= true <= ends[1] for _, true, ends in guesses if ends),
    )


def _predicted(known: Known, truth: Problem, measured: Sequence[Profile]) -> Problem:
    kinds = dict.fromkeys(device.kind for device in truth.devices)
    models = {member: known.models[member] for member in truth.members}
    surrogate = Surrogate(models, kinds, measured)
    profiles = [
        one
        for member in truth.members
        for kind in kinds
        for one in surrogate.predict(member, kind, [*truth.profiles.of(member, kind)]).profiles
    ]
    return Problem(truth.members, truth.devices, Profiles(profiles))
