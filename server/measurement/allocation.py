"""Lets the real server decide between good allocations: the optimum and its neighbours, measured.

Runs in the process of the command line. A configuration and its placement flow in, what was
measured and the allocation that won flow out. The performance model is a model; where memory is
short, caches are cold, or batches don't fill, the server is what counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from allocator.matrix import AllocationMatrix
from allocator.problem import Cells, Problem
from allocator.search.greedy import Move
from allocator.search.halving import Standing, first_seconds, successive_halving
from allocator.search.neighbours import Neighbour, neighbours
from allocator.search.search import Allocation
from allocator.search.throughput import solve_throughput
from server.config import Config
from server.deployment.placement import PlacementResult
from server.errors import StartError
from server.measurement.rate import ServedRate, intensity

__all__ = [
    "Measure",
    "MeasuredScorer",
    "Trial",
    "measure_allocation",
    "print_trials",
    "trials_document",
]

#: Rows/s of a matrix, measured for so many seconds; 0 if it can't be served.
Measure = Callable[[AllocationMatrix, float], float]


@dataclass(frozen=True)
class Trial:
    """What was measured of one allocation.

    Attributes:
        what: how it differs from the optimum by the performance model, for people.
        matrix: the allocation.
        rows_s: what the server answers, of all ensembles together; 0 if it can't be served.
        predicted_rows_s: by the performance model.
        seconds: how long it was measured.
    """

    what: str
    matrix: AllocationMatrix
    rows_s: float
    predicted_rows_s: float
    seconds: float


class MeasuredScorer:
    """Scores cells by measuring them, as `allocator.search.greedy.Scorer` demands; each only once.

    Args:
        problem: members, devices and profiles.
        measure: what measures.
        seconds: how long.
    """

    def __init__(self, problem: Problem, measure: Measure, *, seconds: float) -> None:
        self._problem, self._measure, self._seconds = problem, measure, seconds
        self._cells = problem.empty()
        self._known: dict[AllocationMatrix, float] = {}

    def score(self, cells: Cells) -> float:
        """Rows/s of these cells, from which moves start now."""
        self._cells = cells.copy()
        matrix = self._problem.matrix(cells)
        if matrix not in self._known:
            self._known[matrix] = self._measure(matrix, self._seconds)
        return self._known[matrix]

    def score_move(self, move: Move) -> float:
        """Rows/s after a move."""
        before, after = self._cells, self._cells.copy()
        after[move.device, move.member] = move.batch
        score = self.score(after)
        self._cells = before
        return score


def measure_allocation(
    path: Path,
    config: Config,
    placement: PlacementResult,
    *,
    longest_s: float,
    seed: int = 0,
    on_line: Callable[[str], None] = lambda line: None,
) -> tuple[Allocation, tuple[Trial, ...]]:
    """Measure a placement's allocation and its neighbours by successive halving.

    Args:
        path: the configuration file.
        config: what it says.
        placement: the optimum by the performance model, its spare memory left.
        longest_s: seconds of a measurement in the last round.
        seed: of all chance.
        on_line: called with what is going on, a line at a time.

    Returns:
        The allocation that won, and what was measured of all, the best first.

    Raises:
        StartError: if none of them can be served.
    """
    started = time.monotonic()
    problem, found = placement.planned.problem, placement.allocation
    fill = config.placement.spare_memory == "fill"
    candidates = neighbours(problem, problem.cells_of(found.matrix), fill=fill, seed=seed)
    matrices = [problem.matrix(one.cells) for one in candidates]
    load = intensity(config, matrices, expected_rows_s=found.throughput_rows_s)
    failures: list[str] = []
    rate = ServedRate(path, config, load, failures.append)

    def measure(index: int, seconds: float) -> float:
        rows_s = rate(matrices[index], seconds)
        told = f"{rows_s:.4g} rows/s" if rows_s else f"fails, {(*failures, 'no answer')[0]}"
        on_line(f"measured for {seconds:.3g} s: {candidates[index].what}: {told}")
        failures.clear()
        return rows_s

    on_line(f"measuring {len(matrices)} allocations: {load.clients} clients, {load.rows} rows each")
    standings = successive_halving(
        range(len(matrices)), measure, first_s=first_seconds(len(matrices), longest_s)
    )
    trials = tuple(_trial(problem, candidates[one.candidate], one) for one in standings)
    if not trials[0].rows_s:
        raise StartError("no allocation can be served, see above")
    best = replace(
        found,
        matrix=trials[0].matrix,
        solver="measured",
        throughput_rows_s=trials[0].predicted_rows_s,
        elapsed_s=found.elapsed_s + time.monotonic() - started,
    )
    return best, trials


def _trial(problem: Problem, candidate: Neighbour, standing: Standing[int]) -> Trial:
    return Trial(
        what=candidate.what,
        matrix=problem.matrix(candidate.cells),
        rows_s=standing.score,
        predicted_rows_s=solve_throughput(problem, candidate.cells)[0],
        seconds=standing.seconds,
    )


def print_trials(console: Console, trials: Sequence[Trial]) -> None:
    """Print what was measured of each allocation, beside what the performance model says."""
    table = Table(title="measured allocations", title_justify="left")
    table.add_column("allocation")
    for heading in ("rows/s", "predicted", "seconds"):
        table.add_column(heading, justify="right")
    for one in trials:
        rate = f"{one.rows_s:,.4g}" if one.rows_s else "fails"
        table.add_row(one.what, rate, f"{one.predicted_rows_s:,.4g}", f"{one.seconds:.3g}")
    console.print(table)


def trials_document(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return what was measured as the result file tells it, the best first."""
    return [
        {
            "what": one.what,
            "matrix": one.matrix.cells,
            "rows_s": one.rows_s,
            "predicted_rows_s": one.predicted_rows_s,
            "seconds": one.seconds,
        }
        for one in trials
    ]
