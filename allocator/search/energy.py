"""The energy objective: the allocation with the fewest joules per row that reaches some rows/s.

Pure, used in the process that plans an allocation. A problem whose profiles have joules, and a
rate, flow in; an `Allocation` and what it takes of energy flow out.

The cells come from `allocator.search.energy_program`: first with the few instances that its
relaxation uses, then, as far as time allows, with all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from allocator.division import Divisible
from allocator.matrix import AllocationMatrix
from allocator.problem import Cells, NoPlaceError, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.division import Divided, uniform_divisions
from allocator.search.energy_program import Options, efficient, energy_of, solve
from allocator.search.exact import Clock
from allocator.search.search import Allocation, search
from allocator.search.throughput import solve_throughput

__all__ = [
    "EnergyFigures",
    "FloorError",
    "UnknownEnergyError",
    "joules_per_row",
    "search_divided_energy",
    "search_energy",
]

#: The share of the time that the search for the highest throughput may take, and that of the rest
#: for the instances of the relaxation.
_START_SHARE = 0.3
_FEW_SHARE = 0.4
#: A bound this close is met: less than a meter resolves.
_GAP = 1e-3
#: A part of a member's rows that is only a solver's tolerance.
_NOTHING = 1e-6


class FloorError(Exception):
    """No allocation reaches the rows/s that are asked for."""


class UnknownEnergyError(Exception):
    """Nobody knows what a member takes, on any device."""

    def __init__(self, member: str) -> None:
        super().__init__(f"the energy of member {member!r} is not known on any of the devices")


@dataclass(frozen=True)
class EnergyFigures:
    """What an allocation takes at a rate, J per row of traffic.

    Attributes:
        min_rows_per_s: the rate.
        joules_per_row: of the members' full batches, above the idle power of the devices, if each
            row is predicted where it takes the least.
        most_joules_per_row: the same, however the rows are divided.
        idle_joules_per_row: the idle power of the devices with an instance, per row at the rate.
        bound_joules_per_row: no allocation takes less, of both together.
        fastest_joules_per_row: what the allocation with the highest throughput would take, of
            both; None if it does not reach the rate.
    """

    min_rows_per_s: float
    joules_per_row: float
    most_joules_per_row: float
    idle_joules_per_row: float
    bound_joules_per_row: float
    fastest_joules_per_row: float | None

    @property
    def total_joules_per_row(self) -> float:
        """Both together, if each row is predicted where it takes the least."""
        return self.joules_per_row + self.idle_joules_per_row

    @property
    def gap(self) -> float:
        """How far it may be from the least, as a share of what it takes."""
        return max(0.0, 1 - self.bound_joules_per_row / self.total_joules_per_row)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self) | {"gap": self.gap}


def search_energy(
    problem: Problem, *, min_rows_per_s: float, time_limit_s: float = 10.0, seed: int = 0
) -> tuple[Allocation, EnergyFigures]:
    """Search for the allocation with the fewest joules per row among those that reach a rate.

    The idle power of the devices with an instance counts as far as the problem has it. Instances
    that would predict nothing at that rate are left out. Profiles without joules are not used.

    Raises:
        NoPlaceError: if not all members fit, or no place was found in time.
        FloorError: if nothing reaches the rate, or nothing that does was found in time.
        UnknownEnergyError: if a member has no profile with joules.
    """
    started, clock = time.monotonic(), Clock(time_limit_s)
    problem = _with_known_energy(problem)
    fastest = search(problem, time_limit_s=time_limit_s * _START_SHARE, seed=seed)
    if fastest.bound_rows_s is not None and fastest.bound_rows_s < min_rows_per_s:
        raise FloorError(
            f"{min_rows_per_s:g} rows/s are asked for, but at most {fastest.bound_rows_s:.4g} are "
            "possible"
        )
    one = _EnergySearch(problem, min_rows_per_s, clock)
    one.try_cells(problem.cells_of(fastest.matrix))
    baseline = one.joules
    one.run()
    if one.cells is None:
        raise FloorError(f"no allocation with {min_rows_per_s:g} rows/s was found")
    allocation = replace(
        fastest,
        matrix=problem.matrix(one.cells),
        solver="energy",
        throughput_rows_s=solve_throughput(problem, one.cells)[0],
        elapsed_s=time.monotonic() - started,
        time_limited=fastest.time_limited or clock.limited,
    )
    return allocation, one.figures(baseline)


def search_divided_energy(
    divisible: Divisible, *, min_rows_per_s: float, time_limit_s: float = 10.0, seed: int = 0
) -> tuple[Divided, EnergyFigures]:
    """Search for the division of CPU devices, into equal parts, and the allocation likewise.

    The bound is for these divisions.

    Raises:
        NoPlaceError, FloorError, UnknownEnergyError: as `search_energy`, if all divisions do.
    """
    started, clock = time.monotonic(), Clock(time_limit_s)
    problems = [divisible.divided(division) for division in uniform_divisions(divisible)]
    failure: Exception | None = None
    found: list[tuple[Divided, EnergyFigures]] = []
    for index, problem in enumerate(problems):
        try:
            with clock.part_s(1 / (len(problems) - index)) as limit_s:
                allocation, figures = search_energy(
                    problem, min_rows_per_s=min_rows_per_s, time_limit_s=limit_s, seed=seed
                )
        except (NoPlaceError, FloorError, UnknownEnergyError) as error:
            failure = failure or error
            continue
        found.append((Divided(problem, allocation), figures))
    if not found:
        assert failure is not None, "there is a division into equal parts"
        raise failure
    best, figures = min(found, key=lambda one: one[1].total_joules_per_row)
    bound = min(one.bound_joules_per_row for _, one in found)
    allocation = replace(best.allocation, elapsed_s=time.monotonic() - started)
    return replace(best, allocation=allocation), replace(figures, bound_joules_per_row=bound)


class _EnergySearch:
    """The best cells so far (None: none reach the rate), their joules per row, and a bound."""

    def __init__(self, problem: Problem, rows_per_s: float, clock: Clock) -> None:
        self._problem = problem
        self._rate = rows_per_s
        self._clock = clock
        self.cells: Cells | None = None
        self.joules = float("inf")
        self.bound = 0.0

    def try_cells(self, cells: Cells) -> None:
        """Keep cells, without what would predict nothing, if they take less."""
        found = energy_of(self._problem, cells, self._rate)
        if found is None:
            return
        used = np.where(found[1] > _NOTHING, cells, 0)
        joules = found[0] + self._idle_joules(used)
        if joules < self.joules and energy_of(self._problem, used, self._rate) is not None:
            self.cells, self.joules = used, joules

    def run(self) -> None:
        """Improve them until they meet the bound or the time is up."""
        options: Options = cache(partial(efficient, self._problem))
        relaxed = solve(
            self._problem, self._rate, options, time_limit_s=self._clock.left_s(), whole=False
        )
        self.bound = relaxed.bound
        few = set(relaxed.instances)
        if self.cells is not None:
            few |= {(int(d), int(m), int(self.cells[d, m])) for d, m in np.argwhere(self.cells)}

        def among_few(device: int, member: int) -> tuple[Profile, ...]:
            return tuple(o for o in options(device, member) if (device, member, o.batch) in few)

        with self._clock.part_s(_FEW_SHARE) as limit_s:
            self._solve(among_few, limit_s)
        if self.joules * (1 - _GAP) > self.bound and not self._clock.is_over():
            bound, finished = self._solve(options, self._clock.left_s())
            self.bound = max(self.bound, bound)
            self._clock.limited |= not finished

    def _solve(self, options: Options, limit_s: float) -> tuple[float, bool]:
        solved = solve(self._problem, self._rate, options, time_limit_s=limit_s, start=self.cells)
        if solved.cells is not None:
            self.try_cells(solved.cells)
        return solved.bound, solved.finished

    def _idle_joules(self, cells: Cells) -> float:
        used: Iterable[int] = np.flatnonzero(cells.any(axis=1))
        names = [self._problem.devices[device].name for device in used]
        return sum(self._problem.idle_watts.get(name, 0.0) for name in names) / self._rate

    def figures(self, baseline: float) -> EnergyFigures:
        """What the cells take."""
        assert self.cells is not None
        least = energy_of(self._problem, self.cells, self._rate)
        most = energy_of(self._problem, self.cells, self._rate, most=True)
        assert least is not None
        assert most is not None
        return EnergyFigures(
            self._rate,
            least[0],
            most[0],
            self._idle_joules(self.cells),
            min(self.bound, self.joules),
            baseline if baseline < float("inf") else None,
        )


def _with_known_energy(problem: Problem) -> Problem:
    known = Profiles(one for one in problem.profiles if one.joules is not None)
    for member in problem.members:
        if not any(known.of(member, device.kind) for device in problem.devices):
            raise UnknownEnergyError(member)
    return replace(problem, profiles=known)


def joules_per_row(problem: Problem, matrix: AllocationMatrix) -> float | None:
    """Return the energy of a row of traffic while the matrix is at its highest throughput.

    What its members' full batches take above the idle power of the devices, J; of the divisions of
    the rows that reach the throughput, that with the least. None if it is not known of an
    instance.

    Raises:
        KeyError: if an instance is not available.
    """
    cells = problem.cells_of(matrix)
    throughput = solve_throughput(problem, cells)[0]
    found = energy_of(problem, cells, throughput) if throughput else None
    return None if found is None else found[0]
