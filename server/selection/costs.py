"""What candidates cost at the best allocations of their members.

Runs in the process of the command line; pure. Candidates flow in, costs flow out. What was found
for some members and their demand is remembered.

A candidate may have several costs, of which none is the best in everything that is asked about: if
the number of devices matters, its members are placed on some of them only, too, and if memory does,
with one small instance each; if energy does, where they need least.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from allocator.problem import Device, NoPlaceError, Problem
from allocator.search.energy import (
    FloorError,
    UnknownEnergyError,
    joules_per_row,
    search_energy,
)
from allocator.search.exact import Clock
from allocator.search.latency import OverloadError, search_latency
from allocator.search.search import Allocation, search
from allocator.simulation import EnsembleShare, Figures, LaterStage, Poisson, Scenario, simulate
from server.calibration.metrics import Floats
from server.selection.options import Constraints, CostName, SelectOptions
from server.selection.points import Candidate, Cost

__all__ = ["CostKey", "Coster", "cost_key", "cost_values", "gains_of", "violations"]

#: Of one placement: the most, and which share of the time that is left.
_PLACE_S = 10.0
_PLACE_SHARE = 0.05
_LEAST_S = 0.1
#: Shares of the rows that stages get are alike to so many digits.
_DIGITS = 4
#: Requests of a simulation.
_REQUESTS = 2000
#: Rows/s that are asked of the most frugal allocation if there is no limit.
_LEAST_RATE = 1e-3
#: So many parts of the devices are tried.
_MOST_POOLS = 32

#: What a cost depends on: members, and rows of each per row of traffic.
CostKey = tuple[tuple[str, ...], tuple[float, ...]]


class _Search(Protocol):
    """Finds an allocation."""

    def __call__(self, problem: Problem, *, time_limit_s: float, seed: int) -> Allocation: ...


def cost_key(candidate: Candidate) -> CostKey:
    """Return what a candidate's cost depends on."""
    demand = candidate.demand
    return candidate.members, tuple(round(demand[name], _DIGITS) for name in candidate.members)


class Coster:
    """Costs of candidates over one problem, that of the whole library; `clock` is of all work."""

    def __init__(self, problem: Problem, options: SelectOptions, clock: Clock) -> None:
        self._problem = problem
        self._options = options
        self._clock = clock
        self._known: dict[CostKey, tuple[Cost, ...]] = {}
        limits = options.constraints
        asks_devices = "devices" in options.costs or limits.max_devices is not None
        self._pools = list(_pools(problem.devices)) if asks_devices else [problem.devices]
        asks_memory = "memory_bytes" in options.costs or limits.max_memory_bytes is not None
        asks_energy = "joules_per_row" in options.costs or limits.max_joules_per_row is not None
        self._searches: list[_Search] = [search]
        if asks_memory:
            self._searches.append(partial(search, solver="worst-fit"))
        if asks_energy:
            self._searches.append(partial(_most_frugal, limits.min_rows_per_s or _LEAST_RATE))

    def cost(self, candidate: Candidate) -> Cost | None:
        """What a candidate costs where it is fastest, None if there is no place for its members."""
        return max(self.costs(candidate), key=lambda one: one.rows_per_s, default=None)

    def costs(self, candidate: Candidate) -> tuple[Cost, ...]:
        """What a candidate costs, in all the ways in which it may be placed."""
        key = cost_key(candidate)
        if key not in self._known:
            self._known[key] = tuple(self._find(candidate))
        return self._known[key]

    def _find(self, candidate: Candidate) -> Iterator[Cost]:
        for devices, find in itertools.product(self._pools, self._searches):
            part = self.part(candidate, devices)
            try:
                found = find(part, time_limit_s=self._limit_s(), seed=self._options.seed)
            except (NoPlaceError, FloorError, UnknownEnergyError):
                continue
            self._clock.limited |= found.time_limited
            yield self._cost(candidate, part, found)

    def quicker(self, candidate: Candidate) -> Cost | None:
        """What a candidate without a cascade costs at the allocation with the best latency found.

        None if there is none at the rate that was asked about.
        """
        rate, part = self._options.rate_rows_s, self.part(candidate, self._problem.devices)
        if rate is None or candidate.cascade is not None:
            return None
        try:
            found, figures = search_latency(
                part, rate_rows_s=rate, time_limit_s=self._limit_s(), seed=self._options.seed
            )
        except (NoPlaceError, OverloadError):
            return None
        return self._cost(candidate, part, found, figures)

    def part(self, candidate: Candidate, devices: tuple[Device, ...]) -> Problem:
        """The problem of a candidate on some devices."""
        demand = dict(zip(*cost_key(candidate), strict=True))
        return replace(self._problem, members=candidate.members, devices=devices, demand=demand)

    def _limit_s(self) -> float:
        return min(_PLACE_S, max(self._clock.left_s() * _PLACE_SHARE, _LEAST_S))

    def _cost(
        self,
        candidate: Candidate,
        part: Problem,
        found: Allocation,
        figures: Figures | None = None,
    ) -> Cost:
        cells = part.cells_of(found.matrix)
        if self._options.rate_rows_s is not None:
            figures = figures or self._simulate(candidate, found, self._options.rate_rows_s)
        latency = None if figures is None else figures.latency
        return Cost(
            rows_per_s=float(found.throughput_rows_s),
            bound_rows_per_s=None if found.bound_rows_s is None else float(found.bound_rows_s),
            memory_bytes=int(part.used_bytes(cells).sum()),
            devices=int(cells.any(axis=1).sum()),
            joules_per_row=joules_per_row(part, found.matrix),
            p99_s=latency.p99_s if latency else math.inf if self._options.rate_rows_s else None,
            allocation=found,
        )

    def _simulate(self, candidate: Candidate, found: Allocation, rate: float) -> Figures | None:
        """Simulate serving at a rate, unless it is more than there can be."""
        if rate >= found.throughput_rows_s:
            return None
        mix = []
        if (cascade := candidate.cascade) is not None:
            shares = [after / before for before, after in itertools.pairwise(cascade.reached)]
            later = tuple(map(LaterStage, cascade.stages[1:], shares))
            mix = [EnsembleShare(cascade.stages[0], later=later)]
        return simulate(
            Scenario(
                matrix=found.matrix,
                devices=self._problem.devices,
                profiles=self._problem.profiles,
                arrivals=Poisson(rate),
                mix=mix,
                requests=_REQUESTS,
                seed=self._options.seed,
            )
        )


def _most_frugal(rate: float, problem: Problem, *, time_limit_s: float, seed: int) -> Allocation:
    """Search for the allocation with the fewest joules per row that reaches a rate."""
    return search_energy(problem, min_rows_per_s=rate, time_limit_s=time_limit_s, seed=seed)[0]


def _pools(devices: Sequence[Device]) -> Iterator[tuple[Device, ...]]:
    """Yield parts of the devices, all of them first, that differ by more than alike devices."""
    alike: dict[tuple[str, int, str], list[Device]] = {}
    for one in devices:
        alike.setdefault((one.kind, one.memory_bytes, one.pool), []).append(one)
    counts = itertools.product(*(range(len(group) + 1) for group in alike.values()))
    by_size = sorted((count for count in counts if sum(count)), key=lambda count: -sum(count))
    # Of too many, small pools are what sets this apart: the whole one, and those with fewest.
    for count in [*by_size[:1], *by_size[1:][-_MOST_POOLS:]]:
        chosen = {
            one.name for group, n in zip(alike.values(), count, strict=True) for one in group[:n]
        }
        yield tuple(one for one in devices if one.name in chosen)


def cost_values(cost: Cost) -> dict[CostName, float]:
    """Costs by name; infinite if one is not known."""
    return {
        "rows_per_s": cost.rows_per_s,
        "p99_ms": math.inf if cost.p99_s is None else 1e3 * cost.p99_s,
        "memory_bytes": float(cost.memory_bytes),
        "joules_per_row": math.inf if cost.joules_per_row is None else cost.joules_per_row,
        "devices": float(cost.devices),
    }


def gains_of(values: Mapping[CostName, float], names: Sequence[CostName]) -> Floats:
    """Costs as numbers that are the better the higher they are, [names]."""
    return np.array([values[name] * (1 if name == "rows_per_s" else -1) for name in names])


def violations(
    values: Mapping[CostName, float], limits: Constraints, costs: Sequence[CostName]
) -> dict[CostName, float]:
    """By which factor costs are beyond the limits that they don't keep.

    Of the costs that span the front, the limit is what is known.
    """
    most: dict[CostName, float | None] = {
        "p99_ms": None if limits.max_p99_s is None else 1e3 * limits.max_p99_s,
        "memory_bytes": limits.max_memory_bytes,
        "joules_per_row": limits.max_joules_per_row,
        "devices": limits.max_devices,
    }
    ratios = {name: values[name] / limit for name, limit in most.items() if limit is not None}
    if limits.min_rows_per_s is not None:
        ratios["rows_per_s"] = limits.min_rows_per_s / max(values["rows_per_s"], 1e-12)
    ratios |= {name: math.inf for name in costs if math.isinf(values[name])}
    return {name: ratio for name, ratio in ratios.items() if ratio > 1}
