"""Puts one case to every solver, and says what each of them made of it.

Runs in the study's process; a `Case` flows in, an `Outcome` flows out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from allocator.matrix import AllocationMatrix
from allocator.problem import Cells, NoPlaceError, Problem
from allocator.search.greedy import AnalyticScorer, best_batches, greedy, worst_fit
from allocator.search.search import Allocation, search
from allocator.search.throughput import solve_throughput
from benchmarks.study.cases import Case, naive_placements
from benchmarks.study.outcomes import PATIENT_GREEDY, NaiveOutcome, Outcome, Simulated, Solution
from benchmarks.study.playing import play

__all__ = ["Effort", "solve"]

_PATIENT_STEPS = 100


@dataclass(frozen=True)
class Effort:
    """How hard to search.

    Attributes:
        time_limit_s: of the exact search.
        seed: of the greedy search's samples and of the simulated arrivals.
        patient_greedy: whether to let the greedy search take ten times its usual steps, too.
        simulated: whether to play the matrices in the simulator, too.
    """

    time_limit_s: float
    seed: int = 0
    patient_greedy: bool = False
    simulated: bool = False


def solve(case: Case, effort: Effort) -> Outcome:
    """Return what every solver makes of a case."""
    problem = case.problem
    found = {
        "worst-fit": _timed(lambda: worst_fit(problem)),
        "batch sizes only": _timed(
            lambda: best_batches(problem, worst_fit(problem), AnalyticScorer(problem))
        ),
        "greedy": _timed(lambda: _greedy(problem, effort.seed)),
    }
    if effort.patient_greedy:
        found[PATIENT_GREEDY] = _timed(
            lambda: _greedy(problem, effort.seed, max_iterations=_PATIENT_STEPS)
        )
    best = _exact(problem, effort)
    found["exact"] = (None, effort.time_limit_s) if best is None else _cells(problem, best)
    solutions = tuple(_solution(problem, name, *found[name]) for name in found)
    return Outcome(
        case=case.name,
        title=case.title,
        members=problem.members,
        devices=tuple(device.name for device in problem.devices),
        memory_bytes=min(device.memory_bytes for device in problem.devices),
        bound=None if best is None else best.bound_rows_s,
        gap=None if best is None else best.gap,
        time_limited=best is None or best.time_limited,
        solutions=solutions,
        naive=tuple(
            NaiveOutcome(one.rule, one.batch, _rate(problem, one.cells))
            for one in naive_placements(problem)
        ),
        simulated=_play(problem, solutions, effort.seed) if effort.simulated else (),
    )


def _timed(search: Callable[[], Cells]) -> tuple[Cells | None, float]:
    start = time.perf_counter()
    try:
        cells: Cells | None = search()
    except NoPlaceError:
        cells = None
    return cells, time.perf_counter() - start


def _greedy(problem: Problem, seed: int, max_iterations: int = 10) -> Cells:
    start, scorer = worst_fit(problem), AnalyticScorer(problem)
    return greedy(problem, start, scorer, seed=seed, max_iterations=max_iterations)


def _exact(problem: Problem, effort: Effort) -> Allocation | None:
    try:
        return search(problem, solver="exact", time_limit_s=effort.time_limit_s, seed=effort.seed)
    except NoPlaceError:
        return None


def _cells(problem: Problem, found: Allocation) -> tuple[Cells, float]:
    return problem.cells_of(found.matrix), found.elapsed_s


def _solution(problem: Problem, solver: str, cells: Cells | None, elapsed_s: float) -> Solution:
    return Solution(
        solver=solver,
        rows_per_s=_rate(problem, cells),
        elapsed_s=round(elapsed_s, 3),
        matrix=None if cells is None else problem.matrix(cells).cells,
    )


def _play(problem: Problem, solutions: tuple[Solution, ...], seed: int) -> tuple[Simulated, ...]:
    names = tuple(device.name for device in problem.devices)
    return tuple(
        play(
            problem,
            one.solver,
            AllocationMatrix(problem.members, names, one.matrix),
            one.rows_per_s,
            seed,
        )
        for one in solutions
        if one.matrix and one.rows_per_s
    )


def _rate(problem: Problem, cells: Cells | None) -> float | None:
    return None if cells is None else round(solve_throughput(problem, cells)[0], 3)
