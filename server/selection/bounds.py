"""What candidates cost at least: proven bounds, found in far less time than an allocation.

Runs in the process of the command line; pure. Sets and candidates flow in, bounds flow out.

One kind is additive over the members, and serves to look at many sets at once. Let devices have
prices p[d], and a row of member m cost c[m], its demand times the least of p[d] / v[d, m] over the
devices, v being the rows/s of its fastest instance. Then no allocation serves more than
``sum p / (sum_m c[m] + sum_d p[d] row_s[d])`` rows/s: that is the duality of the linear program of
`allocator.search.throughput`, without memory. The prices are those of some sets' programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from allocator.problem import Problem
from allocator.profiles import Profile
from allocator.search.search import upper_bound_rows_s
from allocator.search.throughput import ThroughputModel
from server.calibration.metrics import Floats
from server.selection.costs import CostKey, cost_key
from server.selection.labelled import Sets
from server.selection.options import CostName
from server.selection.points import Candidate

__all__ = ["CostBounds"]

_BOUND_S = 1.0
#: The sets whose prices are taken: the cheapest and the dearest members, of so many sizes.
_SIZES = 8


class CostBounds:
    """Bounds over one problem, in which each member has a profile that fits a device."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._known: dict[CostKey, float] = {}
        #: Prices [programs, devices] and what rows cost by them [programs, members].
        self._prices, self._row_costs = _priced(problem)
        own_s = np.array([problem.row_seconds(device) for device in range(len(problem.devices))])
        self._own = self._prices @ own_s
        self._least = _least(problem)

    def rows_per_s(self, demands: Floats | Sets) -> Floats:
        """Rows/s that no allocation exceeds, of rows of members per row [candidates, members]."""
        loads = demands @ self._row_costs.T + self._own
        return np.asarray((self._prices.sum(axis=1) / loads).min(axis=1))

    def tight_rows_per_s(self, candidate: Candidate) -> float:
        """Rows/s that no allocation of a candidate exceeds: lower than the others, but slower."""
        members, demands = key = cost_key(candidate)
        if key not in self._known:
            demand = dict(zip(members, demands, strict=True))
            part = replace(self._problem, members=members, demand=demand)
            self._known[key] = upper_bound_rows_s(part, time_limit_s=_BOUND_S)
        return self._known[key]

    def values(self, candidate: Candidate, rows_per_s: float) -> dict[CostName, float]:
        """What a candidate costs at least, or that many rows/s at most."""
        demand, least = candidate.demand, self._least
        first = candidate.members if candidate.cascade is None else candidate.cascade.stages[0]
        return {
            "rows_per_s": rows_per_s,
            "p99_ms": max(least["p99_ms"][one] for one in first),
            "memory_bytes": math.fsum(least["memory_bytes"][one] for one in candidate.members),
            "joules_per_row": math.fsum(
                demand[one] * least["joules_per_row"][one] for one in candidate.members
            ),
            "devices": 1.0,
        }


def _priced(problem: Problem) -> tuple[Floats, Floats]:
    speeds = np.zeros((len(problem.devices), len(problem.members)))
    fastest = problem.empty()
    for device, member in np.ndindex(*speeds.shape):
        if options := problem.options(device, member):
            best = max(options, key=lambda one: one.rows_per_s)
            speeds[device, member], fastest[device, member] = best.rows_per_s, best.batch
    order = np.argsort(-speeds.max(axis=0), kind="stable")
    prices = [np.ones(len(speeds))]
    for size in sorted({max(1, len(order) * i // _SIZES) for i in range(1, _SIZES + 1)}):
        for some in (order[:size], order[-size:]):
            members = tuple(problem.members[i] for i in some)
            model = ThroughputModel(replace(problem, members=members, demand={}))
            model.put_all(fastest[:, some])
            model.rows_per_s()
            prices.append(model.prices()[1])
    stacked = np.stack([one for one in prices if one.sum() > 0])
    seconds = 1 / np.where(speeds > 0, speeds, 1.0)
    row_costs = np.where(speeds > 0, stacked[:, :, np.newaxis] * seconds, np.inf).min(axis=1)
    return stacked, row_costs


def _least(problem: Problem) -> dict[CostName, dict[str, float]]:
    """What each member's quickest, smallest and most frugal instance takes."""
    options = {
        name: [one for d in range(len(problem.devices)) for one in problem.options(d, member)]
        for member, name in enumerate(problem.members)
    }

    def least(of: Callable[[Profile], float]) -> dict[str, float]:
        return {name: min(map(of, those)) for name, those in options.items()}

    return {
        "p99_ms": least(lambda one: 1e3 * one.latency_s),
        "memory_bytes": least(lambda one: float(one.memory_bytes)),
        "joules_per_row": least(lambda one: one.joules_per_row or math.inf),
    }
