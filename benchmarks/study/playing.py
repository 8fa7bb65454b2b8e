"""Plays a placement in the simulator: does it do under load what the linear program promises?

Runs in the study's process; a placement flows in, simulated rates and latencies flow out. The
simulator binds rows to devices as the server does; only predictions take time in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from allocator.matrix import AllocationMatrix
from allocator.problem import Problem
from allocator.simulation import ClosedLoop, Poisson, Scenario, simulate
from benchmarks.study.outcomes import Simulated

__all__ = ["play"]

_LOAD = 0.7
_REQUESTS = 10_000


def play(
    problem: Problem, solver: str, matrix: AllocationMatrix, rows_per_s: float, seed: int
) -> Simulated:
    """Play a matrix twice: saturated, and with random arrivals at a part of its throughput.

    Args:
        problem: the devices and profiles of the matrix.
        solver: whose matrix it is.
        matrix: what to play.
        rows_per_s: its throughput in the performance model.
        seed: of the arrivals.
    """
    connections = _connections(matrix)
    # Ten rounds of all connections, so that the first batches, which find no queue, count little.
    scenario = Scenario(
        matrix=matrix,
        devices=problem.devices,
        profiles=problem.profiles,
        arrivals=ClosedLoop(connections),
        requests=max(_REQUESTS, 10 * connections),
        seed=seed,
    )
    full = simulate(scenario)
    part = simulate(replace(scenario, arrivals=Poisson(_LOAD * rows_per_s), requests=_REQUESTS))
    assert part.latency is not None
    return Simulated(
        solver=solver,
        saturated_rows_per_s=round(full.throughput_rows_s, 1),
        load=_LOAD,
        p50_ms=round(1e3 * part.latency.p50_s, 1),
        p99_ms=round(1e3 * part.latency.p99_s, 1),
    )


def _connections(matrix: AllocationMatrix) -> int:
    """As many clients as fill every instance's batch twice: one runs, one waits."""
    columns: Iterable[tuple[int, ...]] = zip(*matrix.cells, strict=True)
    return 2 * max(sum(column) for column in columns)
