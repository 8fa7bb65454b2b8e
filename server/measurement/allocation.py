"""Chooses among good allocations by measuring them: the optimum by the model and its neighbours.

Runs in the process of the command line. A configuration and its placement flow in; the allocation
that won and what was measured flow out. Each candidate is served by a real server under load: where
memory is short, caches are cold, or batches don't fill, the performance model may be wrong.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from allocator.matrix import AllocationMatrix
from allocator.search.halving import first_seconds, successive_halving
from allocator.search.search import Allocation
from allocator.search.throughput import solve_throughput
from allocator.search.variants import neighbours
from server.config import Config
from server.deployment.placement import PlacementResult
from server.errors import StartError
from server.measurement.load import Intensity, loaded_models, measure_rows_s
from server.measurement.server import MeasurementError, measured_server

__all__ = [
    "MeasuredAllocation",
    "intensity",
    "measure_allocation",
    "served_rows_s",
]

_MIN_CLIENTS = 8
#: While one batch of each instance runs, the next one waits.
_BATCHES_IN_FLIGHT = 2
#: An answer should take less than a measurement.
_MAX_ANSWER_S = 0.5


@dataclass(frozen=True)
class MeasuredAllocation:
    """What was measured of one allocation.

    `what` is how it differs from the optimum by the performance model, for people. The server
    answers `rows_s`, of all ensembles together; 0 if it can't be served.
    """

    what: str
    matrix: AllocationMatrix
    rows_s: float
    predicted_rows_s: float
    seconds: float


def intensity(
    config: Config, matrices: Iterable[AllocationMatrix], *, expected_rows_s: float
) -> Intensity:
    """Return a load that keeps all of some matrices busy; one for all, since they compete."""
    models = len(loaded_models(config))
    deadlines_s = [one.deadline_ms / 1e3 for one in config.ensembles.values() if one.deadline_ms]
    answer_s = min([_MAX_ANSWER_S, *(deadline_s / 2 for deadline_s in deadlines_s)])
    most = max(sum(column) for one in matrices for column in zip(*one.cells, strict=True))
    rows = models * min(_BATCHES_IN_FLIGHT * most, expected_rows_s * answer_s)
    clients = max(_MIN_CLIENTS, models)
    return Intensity(clients, max(1, math.ceil(rows / clients)))


def served_rows_s(
    path: Path, config: Config, matrix: AllocationMatrix, load: Intensity, seconds: float
) -> float:
    """Serve a configuration by a matrix, and return how many rows per second it answers.

    Raises:
        MeasurementError: if it can't be served, or a request fails.
    """
    with measured_server(path, matrix) as address:
        return measure_rows_s(address, config, load, seconds)


def measure_allocation(
    path: Path,
    config: Config,
    placement: PlacementResult,
    *,
    longest_s: float,
    seed: int = 0,
) -> tuple[Allocation, tuple[MeasuredAllocation, ...]]:
    """Measure a placement's allocation and its neighbours by successive halving.

    The placement is the optimum by the performance model, its spare memory left; a measurement in
    the last round takes `longest_s`. Progress goes to stderr. The allocation that won is returned,
    and what was measured of all, the best first.

    Raises:
        StartError: if none of them can be served.
    """
    started = time.monotonic()
    problem, found = placement.planned.problem, placement.allocation
    fill = config.placement.spare_memory == "fill"
    candidates = neighbours(problem, problem.cells_of(found.matrix), fill=fill, seed=seed)
    matrices = [problem.matrix(one.cells) for one in candidates]
    load = intensity(config, matrices, expected_rows_s=found.throughput_rows_s)

    def measure(index: int, seconds: float) -> float:
        try:
            rows_s = served_rows_s(path, config, matrices[index], load, seconds)
            result = f"{rows_s:.4g} rows/s" if rows_s else "fails, no answer"
        except MeasurementError as error:
            rows_s, result = 0.0, f"fails, {error}"
        _log(f"measured for {seconds:.3g} s: {candidates[index].what}: {result}")
        return rows_s

    _log(f"measuring {len(matrices)} allocations: {load.clients} clients, {load.rows} rows each")
    standings = successive_halving(
        range(len(matrices)), measure, first_s=first_seconds(len(matrices), longest_s)
    )
    measured = tuple(
        MeasuredAllocation(
            what=candidates[one.candidate].what,
            matrix=matrices[one.candidate],
            rows_s=one.score,
            predicted_rows_s=solve_throughput(problem, candidates[one.candidate].cells)[0],
            seconds=one.seconds,
        )
        for one in standings
    )
    if not measured[0].rows_s:
        raise StartError("no allocation can be served, see above")
    best = replace(
        found,
        matrix=measured[0].matrix,
        solver="measured",
        throughput_rows_s=measured[0].predicted_rows_s,
        elapsed_s=found.elapsed_s + time.monotonic() - started,
    )
    return best, measured


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
