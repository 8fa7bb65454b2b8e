"""What candidates cost at the best allocation of their members, and what they cost at least.

Runs in the process of the command line; pure. Candidates flow in, a `Cost` or a bound flows out.

A bound that is additive over the members serves to look at many sets at once: let devices have
prices p[d], and a row of member m cost c[m], its demand times the least of p[d] / v[d, m] over the
devices, with the rows/s v of its fastest instance. Then no allocation serves more than
``sum p / (sum_m c[m] + sum_d p[d] row_s[d])`` rows/s: that is duality of the linear program in
`allocator.search.throughput`, without the memory. The prices are those of some sets' programs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from allocator.problem import Cells, NoPlaceError, Problem
from allocator.search.exact import Clock
from allocator.search.search import Allocation, search, upper_bound_rows_s
from allocator.search.throughput import ThroughputModel
from server.calibration.metrics import Floats, Rows
from server.selection.labelled import Sets
from server.selection.options import Constraints, CostName
from server.selection.points import Candidate, Cost

__all__ = ["Coster", "cost_gains", "violations"]

#: Of one placement: the most, and which share of the time that is left.
_PLACE_S = 10.0
_PLACE_SHARE = 0.05
_BOUND_S = 1.0
#: Shares of the rows that stages get are alike to so many digits.
_DIGITS = 4

_Key = tuple[tuple[str, ...], tuple[float, ...]]


class Coster:
    """Costs of candidates over one problem; whatever was found once is remembered.

    Args:
        problem: over the whole library.
        clock: of the whole search.
        seed: of the searches.
    """

    def __init__(self, problem: Problem, clock: Clock, seed: int) -> None:
        self._problem = problem
        self._clock = clock
        self._seed = seed
        self._costs: dict[_Key, Cost | None] = {}
        self._bounds: dict[_Key, float] = {}
        self.placed = 0
        self._prepare_prices()

    def _prepare_prices(self) -> None:
        problem = self._problem
        speeds = np.zeros((len(problem.devices), len(problem.members)))
        fastest = problem.empty()
        for device, member in np.ndindex(*speeds.shape):
            if options := problem.options(device, member):
                best = max(options, key=lambda one: one.rows_per_s)
                speeds[device, member], fastest[device, member] = best.rows_per_s, best.batch
        with np.errstate(divide="ignore"):
            seconds = 1 / speeds
        order = np.argsort(seconds.min(axis=0), kind="stable")
        sizes = sorted({max(1, len(order) * i // 8) for i in range(1, 9)})
        sets = [part for size in sizes for part in (order[:size], order[-size:])]
        prices = [np.ones(len(speeds)), *(self._prices(part, fastest) for part in sets)]
        self._prices_per_s = np.stack([one for one in prices if one.sum() > 0])
        own_s = np.array([problem.row_seconds(device) for device in range(len(speeds))])
        self._own = self._prices_per_s @ own_s
        # What costs nothing at some prices is no reason for 0 times infinity.
        priced = np.where(np.isinf(seconds), np.inf, self._prices_per_s[:, :, None] * np.where(
            np.isinf(seconds), 1.0, seconds))  # fmt: skip
        #: By prices and member: what a row of it costs at least.
        self._row_costs = priced.min(axis=1)

    def _prices(self, part: Rows, fastest: Cells) -> Floats:
        problem = self._part([self._problem.members[i] for i in part], {})
        model = ThroughputModel(problem)
        model.put_all(fastest[:, part])
        model.rows_per_s()
        return model.prices()[1]

    @property
    def seconds(self) -> Floats:
        """Device seconds that a row of each member takes at least, summed over devices, [members].

        Infinite for a member that runs nowhere.
        """
        return np.asarray(self._row_costs[0])

    def bounds(self, chosen: Floats | Sets) -> Floats:
        """Rows/s that no allocation exceeds, of many sets: rows of members per row [sets, members].

        The bound is proven, and takes next to no time.
        """
        loads = np.stack([chosen @ costs for costs in self._row_costs], axis=1) + self._own
        return np.asarray((self._prices_per_s.sum(axis=1) / loads).min(axis=1))

    def bound(self, candidate: Candidate) -> float:
        """Rows/s that no allocation exceeds; slower to find than by `bounds`, and lower."""
        key = self._key(candidate)
        if key not in self._bounds:
            if (cost := self._costs.get(key)) is not None:
                return cost.rows_per_s if cost.bound_rows_per_s is None else cost.bound_rows_per_s
            part = self._part(key[0], candidate.demand)
            self._bounds[key] = upper_bound_rows_s(part, time_limit_s=_BOUND_S)
        return self._bounds[key]

    def least(self, candidate: Candidate, bound: float, names: Sequence[CostName]) -> Floats:
        """What costs are at best, with these rows/s; as in `cost_gains`."""
        values = {"rows_per_s": bound, "devices": -1.0}
        demand = candidate.demand
        for name, least in self._least.items():
            each = [demand[one] ** (name == "joules_per_row") * least[one] for one in demand]
            values[name] = -(max(each) if name == "p99_ms" else math.fsum(each))
        return np.array([values[name] for name in names])

    @cached_property
    def _least(self) -> dict[CostName, dict[str, float]]:
        """What each member's smallest, fastest, and most frugal instance take."""
        problem = self._problem
        found: dict[CostName, dict[str, float]] = {
            "p99_ms": {}, "memory_bytes": {}, "joules_per_row": {}
        }  # fmt: skip
        for member, name in enumerate(problem.members):
            options = [o for d in range(len(problem.devices)) for o in problem.options(d, member)]
            found["p99_ms"][name] = min(1e3 * one.latency_s for one in options)
            found["memory_bytes"][name] = min(float(one.memory_bytes) for one in options)
            energies = [one.joules_per_row for one in options if one.joules_per_row is not None]
            found["joules_per_row"][name] = min(energies, default=math.inf)
        return found

    def cost(self, candidate: Candidate) -> Cost | None:
        """What a candidate costs, None if there is no place for its members."""
        key = self._key(candidate)
        if key not in self._costs:
            self._costs[key] = self._place(key, candidate)
        return self._costs[key]

    def _place(self, key: _Key, candidate: Candidate) -> Cost | None:
        limit_s = min(_PLACE_S, max(self._clock.left_s() * _PLACE_SHARE, 0.1))
        part = self._part(key[0], candidate.demand)
        self.placed += 1
        try:
            found = search(part, time_limit_s=limit_s, seed=self._seed)
        except NoPlaceError:
            return None
        return _cost(part, found)

    def _part(self, members: Sequence[str], demand: Mapping[str, float]) -> Problem:
        return replace(self._problem, members=tuple(members), demand=dict(demand))

    @staticmethod
    def _key(candidate: Candidate) -> _Key:
        demand = candidate.demand
        shares = tuple(round(demand[name], _DIGITS) for name in candidate.members)
        return candidate.members, shares


def _cost(problem: Problem, found: Allocation) -> Cost:
    cells = problem.cells_of(found.matrix)
    return Cost(
        rows_per_s=found.throughput_rows_s,
        bound_rows_per_s=found.bound_rows_s,
        memory_bytes=int(problem.used_bytes(cells).sum()),
        devices=int(cells.any(axis=1).sum()),
        joules_per_row=None,
        p99_s=None,
        allocation=found,
    )


def cost_gains(cost: Cost, names: Sequence[CostName]) -> Floats:
    """Costs as numbers that are better the higher they are; what is not known is the worst."""
    values = {
        "rows_per_s": cost.rows_per_s,
        "p99_ms": -math.inf if cost.p99_s is None else -1e3 * cost.p99_s,
        "memory_bytes": -float(cost.memory_bytes),
        "joules_per_row": -math.inf if cost.joules_per_row is None else -cost.joules_per_row,
        "devices": -float(cost.devices),
    }
    return np.array([values[name] for name in names])


def violations(cost: Cost, limits: Constraints) -> dict[str, float]:
    """By which factor a cost is beyond each limit that it does not keep; infinite if not known."""
    ratios = {
        "min_rows_per_s": (limits.min_rows_per_s or 0) / cost.rows_per_s,
        "max_p99_s": _ratio(cost.p99_s, limits.max_p99_s),
        "max_memory_bytes": _ratio(cost.memory_bytes, limits.max_memory_bytes),
        "max_joules_per_row": _ratio(cost.joules_per_row, limits.max_joules_per_row),
        "max_devices": _ratio(cost.devices, limits.max_devices),
    }
    return {name: ratio for name, ratio in ratios.items() if ratio > 1}


def _ratio(value: float | None, most: float | None) -> float:
    if most is None:
        return 0.0
    return math.inf if value is None else value / most
