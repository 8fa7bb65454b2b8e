"""What the placement study finds, as data: written to JSON, read by the page and the plots.

Pure. Rates are rows/s of the whole ensemble, in the performance model over estimated profiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from benchmarks.results_file import Hardware

__all__ = ["PATIENT_GREEDY", "SOLVERS", "NaiveOutcome", "Outcome", "Simulated", "Solution", "Study"]

#: In the order of tables and plots.
SOLVERS = ("worst-fit", "batch sizes only", "greedy", "exact")
#: The greedy search with a hundred steps instead of ten; it takes long, so few cases are put to it.
PATIENT_GREEDY = "patient greedy"


class Solution(msgspec.Struct, frozen=True):
    """What one solver found.

    Attributes:
        solver: one of `SOLVERS`, or `PATIENT_GREEDY`.
        rows_per_s: throughput; None if it found no placement.
        elapsed_s: wall time of the search.
        matrix: batch sizes, a row per device; None if it found no placement.
    """

    solver: str
    rows_per_s: float | None
    elapsed_s: float
    matrix: tuple[tuple[int, ...], ...] | None


class NaiveOutcome(msgspec.Struct, frozen=True):
    """A placement without a search; `rows_per_s` is None where it does not fit."""

    rule: str
    batch: int
    rows_per_s: float | None


class Simulated(msgspec.Struct, frozen=True):
    """One matrix under load in the simulator.

    Attributes:
        solver: whose matrix it is.
        saturated_rows_per_s: answered while there are always rows waiting.
        load: random arrivals as a share of the throughput that the performance model promises.
        p50_ms: median time from a row's arrival to its answer at that load.
        p99_ms: what 99 % of the rows don't exceed there.
    """

    solver: str
    saturated_rows_per_s: float
    load: float
    p50_ms: float
    p99_ms: float


class Outcome(msgspec.Struct, frozen=True):
    """The answers to one case.

    Attributes:
        case: its name.
        title: for people.
        members: names of the columns.
        devices: names of the rows.
        memory_bytes: for instances on the smallest device.
        bound: no placement does more rows/s; None if nothing is proven.
        gap: how far below the bound the exact search ended, as a share of it.
        time_limited: whether the time limit cut the exact search short.
        solutions: one per solver.
        naive: placements without a search.
        simulated: what the simulator says of the matrices.
    """

    case: str
    title: str
    members: tuple[str, ...]
    devices: tuple[str, ...]
    memory_bytes: int
    bound: float | None
    gap: float | None
    time_limited: bool
    solutions: tuple[Solution, ...]
    naive: tuple[NaiveOutcome, ...] = ()
    simulated: tuple[Simulated, ...] = ()

    def solution(self, solver: str) -> Solution:
        """What a solver found.

        Raises:
            KeyError: if it was not asked.
        """
        for one in self.solutions:
            if one.solver == solver:
                return one
        raise KeyError(solver)

    def rate(self, solver: str) -> float | None:
        """The throughput that a solver found, None if it found no placement."""
        return self.solution(solver).rows_per_s

    def ratio(self, solver: str, to: str) -> float | None:
        """One solver's throughput by another's, None if either found no placement."""
        ours, theirs = self.rate(solver), self.rate(to)
        return ours / theirs if ours and theirs else None


class Study(msgspec.Struct, frozen=True):
    """The whole study.

    Attributes:
        commit: that was run; ``-dirty`` if the allocator or the study differed from it.
        date: UTC.
        hardware: that the searches ran on.
        software: versions by package.
        profiles: where the figures of the members come from.
        seed: of the greedy search and the arrivals.
        sweep_limit_s: of each exact search of the sweep.
        extremes_limit_s: of each exact search of the other cases.
        elapsed_s: of everything.
        sweep: ensembles of several sizes on 1 to 16 GPUs.
        twelve: twelve networks on four GPUs, by memory.
        one: one network on sixteen GPUs.
        mixed: GPUs of two kinds.
    """

    commit: str
    date: str
    hardware: Hardware
    software: dict[str, str]
    profiles: str
    seed: int
    sweep_limit_s: float
    extremes_limit_s: float
    elapsed_s: float
    sweep: tuple[Outcome, ...]
    twelve: tuple[Outcome, ...]
    one: Outcome
    mixed: Outcome

    def sweep_of(self, size: int) -> list[Outcome]:
        """The sweep of the ensemble of so many members, by ascending number of GPUs."""
        mine = (one for one in self.sweep if len(one.members) == size)
        return sorted(mine, key=lambda one: len(one.devices))

    @property
    def sizes(self) -> list[int]:
        """The sizes of the ensembles in the sweep."""
        return sorted({len(one.members) for one in self.sweep})

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes of all cases."""
        yield from self.sweep
        yield from self.twelve
        yield self.one
        yield self.mixed
