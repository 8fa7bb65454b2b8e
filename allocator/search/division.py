"""Searches for the division of CPU devices into workers, and for the allocation on its parts.

Pure, used in the process that plans an allocation; a `Divisible` problem flows in, the best
division found flows out, with its `Allocation` and a bound on those of all divisions.

This is Benders' decomposition with logic-based cuts (Hooker and Ottosson, Mathematical Programming
96, 2003): the master (`allocator.search.counting`) proposes a division and bounds all those that it
has not proposed yet; the proposed division is searched as any problem is, and forbidden; until no
division that is left can be better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from allocator.division import Divisible, Division
from allocator.problem import NoPlaceError, Problem
from allocator.search.counting import Counts, Master
from allocator.search.exact import Clock
from allocator.search.search import Allocation, Solver, search

__all__ = ["Divided", "search_divided", "uniform_divisions"]

#: When bound and throughput count as equal: `exact` goes on until then, `auto` not as far.
_PROVEN, _GOOD = 2e-4, 0.01
#: The share of the throughput that fewer workers may cost.
_ALMOST = 0.999
#: What the search of a division, and the next proposal, may take of the time that is left.
_BASELINE_SHARE, _SEARCH_SHARE, _MASTER_SHARE = 0.1, 0.4, 0.2


@dataclass(frozen=True)
class Divided:
    """A division, the problem of placing the members on its parts, and the solution of that.

    The allocation's bound is for all divisions. Among its baselines are the rows/s with a worker
    per device, `whole_devices`, and with the smallest workers, `smallest_parts`.
    """

    division: Division
    problem: Problem
    allocation: Allocation

    @property
    def workers(self) -> int:
        """How many workers serve the members."""
        return sum(any(row) for row in self.allocation.matrix.cells)


def uniform_divisions(divisible: Divisible) -> Iterator[Division]:
    """Yield the divisions into equal parts: those as big as may be first, the smallest last."""
    for count in sorted({one for each in divisible.counts.values() for one in each}, reverse=True):
        yield divisible.uniform(count)


def search_divided(
    divisible: Divisible,
    *,
    solver: Solver = "auto",
    time_limit_s: float = 10.0,
    seed: int = 0,
    tolerance: float = 0.0,
) -> Divided:
    """Search for the division and the allocation with the highest throughput.

    Of divisions that differ by less than the tolerance, or 0.1%, that with the fewest workers is
    found. The solver and the rest are as for `search`; `exact` goes on until the best is proven.

    Raises:
        NoPlaceError: if no division was found on which all members fit.
    """
    started, clock = time.monotonic(), Clock(time_limit_s)
    searched = _Search(divisible, solver, clock, seed, tolerance)
    uniform = [*uniform_divisions(divisible)]
    baselines = {
        "whole_devices": searched.judge(uniform[0], _BASELINE_SHARE),
        "smallest_parts": searched.judge(uniform[-1], _BASELINE_SHARE),
    }
    searched.run(_PROVEN if solver == "exact" else _GOOD)
    best = searched.best()
    allocation = replace(
        best.allocation,
        bound_rows_s=max(searched.bound, best.allocation.throughput_rows_s),
        elapsed_s=time.monotonic() - started,
        time_limited=clock.limited,
        baselines={**best.allocation.baselines, **baselines},
    )
    return replace(best, allocation=allocation)


class _Search:
    """The divisions that were searched, and what is known of the others."""

    def __init__(
        self, divisible: Divisible, solver: Solver, clock: Clock, seed: int, tolerance: float
    ) -> None:
        self._divisible = divisible
        self._solver: Solver = solver
        self._clock = clock
        self._seed = seed
        self._tolerance = tolerance
        self._master = Master(divisible)
        self._found: dict[Counts, Divided] = {}
        self._refusal: NoPlaceError | None = None
        # What no division exceeds that was judged, and that was not.
        self._judged, self._left = 0.0, self._master.highest

    @property
    def bound(self) -> float:
        """Rows/s that no allocation on any division exceeds."""
        return max(self._left, self._judged)

    def judge(self, division: Division, share: float) -> float | None:
        """Search a division, unless it was; return its throughput, None if no place was found."""
        counts = self._master.counts(division)
        if counts not in self._found:
            problem = self._divisible.divided(division)
            try:
                with self._clock.part_s(share) as limit_s:
                    allocation = search(
                        problem,
                        solver=self._solver,
                        time_limit_s=limit_s,
                        seed=self._seed,
                        tolerance=self._tolerance,
                    )
            except NoPlaceError as error:
                self._refusal = self._refusal or error
                return None
            self._found[counts] = Divided(division, problem, allocation)
            self._forbid(division, allocation.bound_rows_s or math.inf)
        return self._found[counts].allocation.throughput_rows_s

    def run(self, gap: float) -> None:
        """Search what the master proposes, until nothing that is left is better by the gap."""
        while True:
            with self._clock.part_s(_MASTER_SHARE) as limit_s:
                proposal = self._master.propose(limit_s)
            self._left = min(self._left, proposal.bound)
            if proposal.division is None or self._left * (1 - gap) <= self._fastest:
                return
            if self._clock.is_over():
                return
            if self.judge(proposal.division, _SEARCH_SHARE) is None:
                self._forbid(proposal.division, proposal.bound)

    def _forbid(self, division: Division, bound: float) -> None:
        """Have a division not proposed again, whose allocations do not exceed a bound."""
        self._judged = max(self._judged, min(bound, self._left))
        self._master.forbid(division)

    @property
    def _fastest(self) -> float:
        found = self._found.values()
        return max((one.allocation.throughput_rows_s for one in found), default=0.0)

    def best(self) -> Divided:
        """Return the division with the fewest workers of those that are about the fastest.

        Raises:
            NoPlaceError: if no place was found on any.
        """
        if not self._found:
            assert self._refusal is not None, "the divisions into equal parts were searched"
            raise self._refusal
        least = self._fastest * min(_ALMOST, 1 - self._tolerance)
        good = [one for one in self._found.values() if one.allocation.throughput_rows_s >= least]
        return min(good, key=lambda one: (one.workers, -one.allocation.throughput_rows_s))
