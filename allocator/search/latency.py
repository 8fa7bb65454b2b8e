"""The latency objective: the allocation that answers a given arrival rate best.

Pure, used in the process that plans an allocation. A problem and an arrival rate flow in, an
`Allocation` and what the simulation says of it flow out. Throughput is a linear program, latency is
not: batches that fill, devices that are shared and bursts decide it, so matrices are simulated.
"""

from __future__ import annotations

import time
from dataclasses import replace

from allocator.problem import Cells, NoPlaceError, Problem
from allocator.search.exact import Clock
from allocator.search.greedy import Move, greedy, worst_fit
from allocator.search.search import Allocation, search
from allocator.search.throughput import solve_throughput
from allocator.search.variants import fill_spare_memory
from allocator.simulation import Figures, Host, Poisson, Scenario, simulate

__all__ = ["OverloadError", "SimulatedScorer", "search_latency", "worth"]

#: Requests of one simulation: enough for a 99th percentile that distinguishes matrices.
_REQUESTS = 2000
#: The share of the time that the search for the highest throughput may take.
_START_SHARE = 0.3
_MAX_NEIGHBOURS = 40
#: What a second of the 99th percentile is worth, in shares of late answers.
_LITTLE = 1e-4
#: Below all that a simulation can be worth.
_HOPELESS = -1e12


class OverloadError(Exception):
    """More rows arrive than any allocation can predict."""


class SimulatedScorer:
    """Scores matrices by a simulation of serving them: few late answers, then a low p99.

    All are simulated under the very same arrivals, so that they can be compared.

    Without a deadline, only the 99th percentile counts.
    """

    def __init__(
        self,
        problem: Problem,
        arrivals: Poisson,
        *,
        deadline_s: float | None = None,
        host: Host | None = None,
        seed: int = 0,
    ) -> None:
        self._problem = problem
        self._arrivals = arrivals
        self._deadline_s = deadline_s
        self._host = host or Host()
        self._seed = seed
        self._cells = problem.empty()

    def score(self, cells: Cells) -> float:
        """What the simulation of these cells is worth; moves start from them now."""
        self._cells = cells.copy()
        return self._worth(cells)

    def score_move(self, move: Move) -> float:
        """What it would be worth after a move."""
        after = self._cells.copy()
        after[move.device, move.member] = move.batch
        return self._worth(after)

    def _worth(self, cells: Cells) -> float:
        throughput = solve_throughput(self._problem, cells)[0]
        if throughput < self._arrivals.rate * self._arrivals.rows:
            # The queue would only grow: no need to watch it. The faster the better.
            return _HOPELESS + throughput
        return worth(self.simulate(cells), self._deadline_s)

    def simulate(self, cells: Cells) -> Figures:
        """Simulate some cells."""
        problem = self._problem
        return simulate(
            Scenario(
                matrix=problem.matrix(cells),
                devices=problem.devices,
                profiles=problem.profiles,
                arrivals=self._arrivals,
                host=self._host,
                requests=_REQUESTS,
                seed=self._seed,
                deadline_s=self._deadline_s,
            )
        )


def worth(figures: Figures, deadline_s: float | None) -> float:
    """Score what a simulation has shown: few late answers, then a low p99, are worth the most."""
    if figures.latency is None:
        return _HOPELESS
    p99_s = figures.latency.p99_s
    if deadline_s is None:
        return -p99_s
    late = figures.late_share + figures.unanswered / max(figures.answered, 1)
    return -late - _LITTLE * p99_s


def search_latency(
    problem: Problem,
    *,
    rate_rows_s: float,
    deadline_s: float | None = None,
    host: Host | None = None,
    time_limit_s: float = 10.0,
    seed: int = 0,
) -> tuple[Allocation, Figures]:
    """Search for the allocation with the best latency at an arrival rate.

    It starts from the best of several: the one with the highest throughput, as it is and with its
    spare memory filled, and worst-fit's; bounded greedy goes on from there. Requests have one row
    each and come at random times; without a deadline, the 99th percentile counts.

    Raises:
        NoPlaceError: if not all members fit, or no place was found in time.
        OverloadError: if no allocation can keep up with that rate.
    """
    started, clock = time.monotonic(), Clock(time_limit_s)
    fastest = search(problem, time_limit_s=time_limit_s * _START_SHARE, seed=seed)
    if fastest.bound_rows_s is not None and rate_rows_s > fastest.bound_rows_s:
        raise OverloadError(
            f"{rate_rows_s:g} rows/s arrive, but at most {fastest.bound_rows_s:.4g} are possible"
        )
    arrivals = Poisson(rate_rows_s)
    scorer = SimulatedScorer(problem, arrivals, deadline_s=deadline_s, host=host, seed=seed)
    cells = problem.cells_of(fastest.matrix)
    starts = [cells, fill_spare_memory(problem, cells), *_worst_fit(problem)]
    best = max(starts, key=scorer.score)
    best = greedy(
        problem,
        best,
        scorer,
        max_neighbours=_MAX_NEIGHBOURS,
        seed=seed,
        keep_going=lambda: not clock.is_over(),
    )
    allocation = replace(
        fastest,
        matrix=problem.matrix(best),
        solver="simulated",
        throughput_rows_s=solve_throughput(problem, best)[0],
        elapsed_s=time.monotonic() - started,
        time_limited=fastest.time_limited or clock.limited,
    )
    return allocation, scorer.simulate(best)


def _worst_fit(problem: Problem) -> list[Cells]:
    try:
        return [worst_fit(problem)]
    except NoPlaceError:
        return []
