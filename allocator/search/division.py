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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from allocator.division import Divisible, Division
from allocator.problem import NoPlaceError, Problem
from allocator.search.counting import Counts, Master
from allocator.search.exact import Clock
from allocator.search.latency import OverloadError, search_latency, worth
from allocator.search.search import Allocation, Solver, search
from allocator.simulation import Figures, Host

__all__ = ["Divided", "search_divided", "search_divided_latency", "uniform_divisions"]

#: When bound and throughput count as equal: `exact` goes on until then, `auto` not as far.
_PROVEN, _GOOD = 2e-4, 0.01
#: The share of the throughput that fewer workers may cost.
_ALMOST = 0.999
#: What the search of a division, and the next proposal, may take of the time that is left.
_BASELINE_SHARE, _SEARCH_SHARE, _MASTER_SHARE = 0.1, 0.4, 0.2


@dataclass(frozen=True)
class Divided:
    """The problem of placing the members on the parts of a division, and the solution of that.

    If devices were divided for throughput, the allocation's bound is for all divisions, and among
    its baselines are the rows/s with a worker per device, `whole_devices`, and with the smallest
    workers, `smallest_parts`. `figures` are of a simulation, if latency was the objective.
    """

    problem: Problem
    allocation: Allocation
    figures: Figures | None = None

    @property
    def workers(self) -> int:
        """How many workers serve the members."""
        return sum(any(row) for row in self.allocation.matrix.cells)


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

    def search_one(problem: Problem, limit_s: float) -> Allocation:
        return search(problem, solver=solver, time_limit_s=limit_s, seed=seed, tolerance=tolerance)

    if not divisible.counts:
        problem = divisible.divided({})
        return Divided(problem, search_one(problem, time_limit_s))
    searched = _Search(divisible, search_one, clock)
    uniform = uniform_divisions(divisible)
    baselines = {
        "whole_devices": searched.judge(uniform[0], _BASELINE_SHARE),
        "smallest_parts": searched.judge(uniform[-1], _BASELINE_SHARE),
    }
    searched.run(_PROVEN if solver == "exact" else _GOOD)
    best = searched.best(tolerance)
    allocation = replace(
        best.allocation,
        bound_rows_s=max(searched.bound, best.allocation.throughput_rows_s),
        elapsed_s=time.monotonic() - started,
        time_limited=clock.limited,
        baselines={**best.allocation.baselines, **baselines},
    )
    return replace(best, allocation=allocation)


def search_divided_latency(
    divisible: Divisible,
    *,
    rate_rows_s: float,
    deadline_s: float | None = None,
    host: Host | None = None,
    time_limit_s: float = 10.0,
    seed: int = 0,
) -> Divided:
    """Search for the division and the allocation with the best latency at an arrival rate.

    Those into equal parts are searched as `search_latency` does, and the one with the highest
    throughput.

    Raises:
        NoPlaceError: if no division was found on which all members fit.
        OverloadError: if no allocation can keep up with that rate.
    """
    started, clock = time.monotonic(), Clock(time_limit_s)
    problems = [divisible.divided(division) for division in uniform_divisions(divisible)]
    failure: NoPlaceError | OverloadError | None = None
    if divisible.counts:
        with clock.part_s(1 / (len(problems) + 2)) as limit_s, suppress(NoPlaceError):
            fastest = search_divided(divisible, time_limit_s=limit_s, seed=seed).problem
            problems += [fastest] if fastest not in problems else []
    found: list[tuple[Divided, Figures]] = []
    for index, problem in enumerate(problems):
        try:
            with clock.part_s(1 / (len(problems) - index)) as limit_s:
                allocation, figures = search_latency(
                    problem,
                    rate_rows_s=rate_rows_s,
                    deadline_s=deadline_s,
                    host=host,
                    time_limit_s=limit_s,
                    seed=seed,
                )
        except (NoPlaceError, OverloadError) as error:
            failure = failure or error
            continue
        found.append((Divided(problem, allocation, figures), figures))
    if not found:
        assert failure is not None, "there is a division into equal parts"
        raise failure
    best, _ = max(found, key=lambda one: worth(one[1], deadline_s))
    elapsed_s = time.monotonic() - started
    return replace(best, allocation=replace(best.allocation, elapsed_s=elapsed_s))


def uniform_divisions(divisible: Divisible) -> list[Division]:
    """Return the divisions into equal parts: those as big as may be first, the smallest last."""
    counts = {count for each in divisible.counts.values() for count in each}
    return [divisible.uniform(count) for count in sorted(counts, reverse=True)] or [{}]


class _Search:
    """The divisions that were searched, and what is known of the others."""

    def __init__(
        self,
        divisible: Divisible,
        search_one: Callable[[Problem, float], Allocation],
        clock: Clock,
    ) -> None:
        self._divisible = divisible
        self._search_one = search_one
        self._clock = clock
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
                    allocation = self._search_one(problem, limit_s)
            except NoPlaceError as error:
                self._refusal = self._refusal or error
                return None
            self._found[counts] = Divided(problem, allocation)
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

    def best(self, tolerance: float) -> Divided:
        """Return the division with the fewest workers of those that are about the fastest.

        Raises:
            NoPlaceError: if no place was found on any.
        """
        if not self._found:
            assert self._refusal is not None, "the divisions into equal parts were searched"
            raise self._refusal
        least = self._fastest * min(_ALMOST, 1 - tolerance)
        good = [one for one in self._found.values() if one.allocation.throughput_rows_s >= least]
        return min(good, key=lambda one: (one.workers, -one.allocation.throughput_rows_s))
