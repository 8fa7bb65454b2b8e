"""Searches for an allocation: one entry for all solvers.

Pure, used by `ensembled allocate`, by `ensembled serve` and by the studies. A problem flows in, an
`Allocation` flows out: a matrix, how fast it is, how fast any could be, and what simpler methods
reach.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from allocator.matrix import AllocationMatrix
from allocator.problem import Cells, NoPlaceError, Problem
from allocator.search import branch
from allocator.search.exact import Clock, Effort, SearchResult, exact, fewest_instances
from allocator.search.greedy import AnalyticScorer, best_batches, greedy, worst_fit
from allocator.search.master import Master
from allocator.search.packings import list_packings
from allocator.search.rebuild import Rebuilder
from allocator.search.relaxation import InfeasibleError, upper_bound
from allocator.search.throughput import solve_throughput

__all__ = ["SOLVERS", "Allocation", "Solver", "search", "upper_bound_rows_s"]

Solver = Literal["auto", "worst-fit", "greedy", "exact"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)

#: `auto` is content with this gap once it finds nothing better; `exact` goes on.
_GOOD = Effort(gap=0.01)
_BEST = Effort()
_BASELINES_SHARE = 0.25


@dataclass(frozen=True)
class Allocation:
    """What a search found.

    By the performance model of `allocator.problem`, no allocation is faster than `bound_rows_s`
    (None if unknown). If the time limit cut the search short, it is `time_limited`; otherwise it
    can be repeated exactly. `baselines` are the rows/s of simpler methods, None where one failed:
    `worst_fit`; `batch_only`, which tunes the batch sizes of worst-fit's matrix; `greedy`.
    """

    matrix: AllocationMatrix
    solver: str
    throughput_rows_s: float
    bound_rows_s: float | None
    elapsed_s: float
    time_limited: bool
    baselines: Mapping[str, float | None]

    @property
    def gap(self) -> float | None:
        """How far it may be from the best, as a share of the bound; None if that is not known."""
        if self.bound_rows_s is None:
            return None
        return 1 - self.throughput_rows_s / self.bound_rows_s


def search(
    problem: Problem,
    *,
    solver: Solver = "auto",
    time_limit_s: float = 10.0,
    seed: int = 0,
    max_iterations: int = 10,
    max_neighbours: int = 100,
    tolerance: float = 0.0,
) -> Allocation:
    """Search for the allocation with the highest throughput.

    The solver is `worst-fit`; `greedy` from there, in at most `max_iterations` of `max_neighbours`
    each; `exact`, which uses all of its time unless it proves that nothing better exists; or
    `auto`, all of these, which ends early when it is within 1% of what is possible and finds
    nothing better. Allocations that differ by less than `tolerance`, as a share of the throughput,
    are alike to `exact` and `auto`: the one with the fewest instances is found.

    Raises:
        NoPlaceError: if not all members fit, or no place was found in time.
    """
    started, clock = time.monotonic(), Clock(time_limit_s)
    starts: dict[str, Cells] = {}
    baselines: dict[str, float | None] = {"worst_fit": None, "batch_only": None, "greedy": None}

    def note(name: str, cells: Cells) -> None:
        starts[name] = cells
        baselines[name] = solve_throughput(problem, cells)[0]

    def within_share() -> bool:
        return time.monotonic() - started < time_limit_s * _BASELINES_SHARE

    try:
        note("worst_fit", worst_fit(problem))
    except NoPlaceError as refusal:
        starts["exact"] = _some_place(problem, refusal, clock, time_limit_s, seed)
    else:
        first, scorer = starts["worst_fit"], AnalyticScorer(problem)
        note("batch_only", best_batches(problem, first, scorer, keep_going=within_share))
        cells = greedy(
            problem,
            first,
            scorer,
            max_iterations=max_iterations,
            max_neighbours=max_neighbours,
            seed=seed,
            keep_going=within_share,
        )
        clock.limited |= not within_share()
        note("greedy", cells)

    if solver in ("auto", "exact"):
        effort = _BEST if solver == "exact" else _GOOD
        found = exact(problem, list(starts.values()), clock=clock, effort=effort, seed=seed)
        found, name = fewest_instances(problem, found, clock=clock, tolerance=tolerance), "exact"
    else:
        name = next(key for key in (solver.replace("-", "_"), "exact") if key in starts)
        throughput = solve_throughput(problem, starts[name])[0]
        bound = upper_bound(problem, clock.left_s(), at_least=throughput)
        found = SearchResult(starts[name], throughput, max(bound, throughput))
    return Allocation(
        matrix=problem.matrix(found.cells),
        solver=name.replace("_", "-"),
        throughput_rows_s=found.throughput,
        bound_rows_s=found.bound if found.bound < float("inf") else None,
        elapsed_s=time.monotonic() - started,
        time_limited=clock.limited,
        baselines=baselines,
    )


def upper_bound_rows_s(problem: Problem, *, time_limit_s: float = 1.0) -> float:
    """Return rows/s that no allocation of a problem exceeds, 0 if it is proven that none exists.

    It costs some small linear programs, much less than `search`. It is a bound whenever the time
    is up, infinity if nothing is proven by then.
    """
    clock = Clock(time_limit_s)
    try:
        bound = upper_bound(problem, clock.left_s())
    except InfeasibleError:
        return 0.0
    packings = list_packings(problem)
    if packings is None or bound == math.inf:
        return bound
    return Master(packings).upper_bound(clock.left_s(), low=0.0, high=bound)


def _some_place(
    problem: Problem, refusal: NoPlaceError, clock: Clock, time_limit_s: float, seed: int
) -> Cells:
    """Find a place where worst-fit found none.

    Raises:
        NoPlaceError: the given one, if there is none; or one that says that the time was up.
    """
    try:
        upper_bound(problem, clock.left_s(), at_least=math.inf)
    except InfeasibleError:
        raise refusal from None
    built = Rebuilder(problem, seed).build()
    if built.throughput:
        return built.cells
    result = branch.some_place(problem, clock.left_s())
    if result.cells is None:
        raise refusal if result.finished else refusal.unproven(time_limit_s)
    return result.cells
