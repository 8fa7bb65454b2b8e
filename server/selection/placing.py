"""Which candidates are on the front of quality and cost: as few as possible are placed for it.

Runs in the process of the command line; pure. Candidates with qualities flow in, those that no
other dominates flow out, with their costs.

A candidate that breaks a limit, or can't beat one that is placed and no worse, even if it cost no
more than its bounds say, is not placed. So the front is that of all candidates, as far as the
searches for allocations find the best ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from server.calibration.metrics import Floats
from server.errors import ConfigError
from server.selection.bounds import CostBounds
from server.selection.costs import Coster, cost_values, gains_of, violations
from server.selection.fronts import is_dominated, nondominated, spread
from server.selection.guard import Rated
from server.selection.options import CostName, SelectOptions
from server.selection.points import Cost

__all__ = ["Placed", "Placer"]

#: So many points get an allocation that is searched by simulation, which takes a second or so.
_MOST_QUICKENED = 12

_UNITS: Mapping[CostName, str] = {
    "rows_per_s": "{:.4g} rows/s",
    "p99_ms": "{:.4g} ms at the 99th percentile",
    "memory_bytes": "{:.4g} bytes of memory",
    "joules_per_row": "{:.4g} joules per row",
    "devices": "{:g} devices",
}

#: What an infinite cost means.
_INFINITE: Mapping[CostName, str] = {
    "p99_ms": "no more rows/s than --rate asks for",
    "joules_per_row": "an energy that is neither measured nor estimated (see `devices[].watts`)",
}


@dataclass(frozen=True)
class Placed:
    """A candidate with its rating where it was searched, and its cost."""

    rated: Rated
    cost: Cost


class Placer:
    """Places candidates one after the other."""

    def __init__(self, coster: Coster, bounds: CostBounds, options: SelectOptions) -> None:
        self._coster = coster
        self._bounds = bounds
        self._costs = options.costs
        self._limits = options.constraints
        self._asks_latency = options.asks_latency
        self._placed: list[Placed] = []
        self._reached = np.empty((0, 1 + len(options.costs)))
        self._refused: list[Placed] = []

    def front(
        self,
        rated: Sequence[Rated],
        rates: Floats,
        keep_going: Callable[[], bool],
        on_progress: Callable[[int, int], None],
    ) -> list[Placed]:
        """Return the front, by descending quality. `rates` are rows/s at most, [rated].

        The candidates that look best by their bounds are placed first, evenly over the front, so
        that it has no hole when the time is up.

        Raises:
            ConfigError: if none can be placed, or none keeps the limits.
        """
        values = np.stack([[one.gain for one in rated], rates], axis=1)
        likely = nondominated(values)
        order = [*likely[_evenly(len(likely))], *np.lexsort((-values[:, 1], -values[:, 0]))]
        for done, index in enumerate(dict.fromkeys(map(int, order))):
            if self._placed and not keep_going():
                break
            on_progress(done, len(rated))
            if not self._is_hopeless(rated[index], float(rates[index])):
                self._place(rated[index])
        if self._asks_latency:
            self._quicken(keep_going)
        if not self._placed:
            raise ConfigError(self._refusal(rated[int(rates.argmax())]))
        return [self._placed[i] for i in nondominated(self._reached)]

    def _is_hopeless(self, one: Rated, rate: float) -> bool:
        """Whether a candidate breaks a limit, or is dominated, by what it costs at least."""

        def is_hopeless(bound: float) -> bool:
            least = self._bounds.values(one.candidate, bound)
            if not bound or violations(least, self._limits, self._costs):
                return True
            gains = gains_of(least, self._costs)
            return is_dominated(np.array([one.gain, *gains]), self._reached)

        return is_hopeless(rate) or is_hopeless(self._bounds.tight_rows_per_s(one.candidate))

    def _place(self, one: Rated) -> None:
        for cost in self._coster.costs(one.candidate):
            self._add(Placed(one, cost))

    def _add(self, one: Placed) -> None:
        values = cost_values(one.cost)
        if self._broken(one):
            self._refused.append(one)
            return
        self._placed.append(one)
        gains = gains_of(values, self._costs)
        self._reached = np.vstack([self._reached, [one.rated.gain, *gains]])

    def _broken(self, one: Placed) -> dict[CostName, float]:
        return violations(cost_values(one.cost), self._limits, self._costs)

    def _quicken(self, keep_going: Callable[[], bool]) -> None:
        """Look for better latencies on the front, and nearest to it if there is none."""
        front = [self._placed[i] for i in nondominated(self._reached)]
        some = [front[i] for i in spread(len(front), _MOST_QUICKENED)]
        for one in some or self._nearest()[:1]:
            if not keep_going():
                break
            if (cost := self._coster.quicker(one.rated.candidate)) is not None:
                self._add(Placed(one.rated, cost))

    def _nearest(self) -> list[Placed]:
        """What was refused, nearest to the limits first; of equals the best."""

        def distance(one: Placed) -> tuple[float, float]:
            return max(self._broken(one).values()), -one.rated.gain

        return sorted(self._refused, key=distance)

    def _refusal(self, fastest: Rated) -> str:
        if not self._refused:
            self._place(fastest)
        if not (nearest := self._nearest()):
            return "no ensemble of the library has a place on the devices"
        values = cost_values(nearest[0].cost)
        costs = ", ".join(_told(name, values[name]) for name in self._broken(nearest[0]))
        members = " + ".join(nearest[0].rated.candidate.members)
        return f"no ensemble keeps the limits: the nearest one is {members} with {costs}"


def _told(name: CostName, value: float) -> str:
    return _INFINITE[name] if math.isinf(value) else _UNITS[name].format(value)


def _evenly(count: int) -> list[int]:
    """The numbers up to a count, both ends first, then the middle, then the quarters ..."""
    order, step = [0, count - 1], count
    while step > 1:
        step = (step + 1) // 2
        order += range(0, count, step)
    return list(dict.fromkeys(order))
