"""The energy at a rate: of given cells a linear, of the best ones a mixed-integer program.

Pure, used by the search for the energy objective; a problem and a rate flow in, cells and a bound
flow out.

Energy is that of full batches (see `allocator.problem`), and a member's rows may be divided among
its instances at any ratio. Binary z[d, m, b] says that there is such an instance, f[d, m, b] is the
share of the member's rows that it predicts, and u[d] says that the device is used. At R rows of
traffic per second:

    minimise    sum f demand[m] e[d, m, b] + sum u[d] idle[d] / R
    subject to  sum_db f = 1                                        for every member m
                R (sum_mb f demand[m] / v[d, m, b] + row_s[d]) <= 1 for every device d (0 if not u)
                f <= z min(1, v (1 - R row_s[d]) / (R demand[m]))   for every instance
                sum_b z <= u[d]                                     for every device d, member m

and the instances fit the memory, of which a device that is not used has none. Without the
integrality it is a lower bound: there an instance pays for the memory and the idle power that its
part of the rows needs at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from allocator.problem import Cells, Problem
from allocator.profiles import Profile
from allocator.search.throughput import Floats, Program

__all__ = ["Options", "Solved", "efficient", "energy_of", "solve"]

_GAP = 1e-3
#: A part of a member's rows that is only a solver's tolerance.
_NOTHING = 1e-6
#: The throughput is the solution of another program: by so much a device may exceed its time.
_TOLERANCE = 1e-6
_SOLVED = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit)

#: By the indices of a device and a member: the instances that are considered.
Options = Callable[[int, int], Sequence[Profile]]

_Instance = tuple[int, int, int]


@dataclass(frozen=True)
class Solved:
    """What the program says: cells, if there are any, and joules per row that none is below.

    `instances` are those that have a part, also where integrality was given up. The bound is
    infinite if nothing reaches the rate, and `finished` says that there is no more to find.
    """

    cells: Cells | None
    bound: float
    instances: frozenset[_Instance]
    finished: bool


def efficient(problem: Problem, device: int, member: int) -> tuple[Profile, ...]:
    """The instances that no other beats in memory, rows/s and joules per row at once."""
    best: list[Profile] = []
    for one in sorted(problem.options(device, member), key=_costs):
        if one.joules is not None and not any(_is_beaten(one, other) for other in best):
            best.append(one)
    return tuple(best)


def _costs(one: Profile) -> tuple[float, float, float]:
    return one.memory_bytes, -one.rows_per_s, one.joules_per_row or 0.0


def _is_beaten(one: Profile, other: Profile) -> bool:
    return all(a >= b for a, b in zip(_costs(one), _costs(other), strict=True))


def solve(
    problem: Problem,
    rows_per_s: float,
    options: Options,
    *,
    time_limit_s: float,
    whole: bool = True,
    start: Cells | None = None,
) -> Solved:
    """Search for the least joules per row, idle power included; not `whole` is the relaxation."""
    program = _EnergyProgram(problem, rows_per_s, options, whole=whole)
    return program.solve(start if whole else None, time_limit_s)


class _EnergyProgram:
    def __init__(
        self, problem: Problem, rows_per_s: float, options: Options, *, whole: bool
    ) -> None:
        self._problem = problem
        self._rate = rows_per_s
        self._whole = whole
        self._program = Program()
        self._columns: dict[_Instance, tuple[int, int]] = {}  # of z and of f
        self._used: list[int] = []  # columns of u
        # In units of a row's energy on its best devices, a solver's tolerances mean the same.
        self._unit = 0.0
        members = range(len(problem.members))
        chosen = {
            (device, member): options(device, member)
            for device in range(len(problem.devices))
            for member in members
        }
        for member in members:
            known = [
                one.joules_per_row
                for (_, m), choices in chosen.items()
                for one in choices
                if m == member and one.joules_per_row is not None
            ]
            self._unit += problem.demands[member] * min(known, default=0.0)
        self._unit = self._unit or 1.0
        shares: list[list[tuple[int, float]]] = [[] for _ in members]
        for device in range(len(problem.devices)):
            self._add_device(device, [chosen[device, member] for member in members], shares)
        for terms in shares:
            self._program.row(terms, lower=1.0, upper=1.0)
        self._limit_memory()

    def _add_device(
        self,
        device: int,
        choices: Sequence[Sequence[Profile]],
        shares: Sequence[list[tuple[int, float]]],
    ) -> None:
        problem, program = self._problem, self._program
        idle = problem.idle_watts.get(problem.devices[device].name, 0.0) / self._rate
        free = 1.0 - self._rate * problem.row_seconds(device)
        used = program.column(gain=-idle / self._unit, upper=1.0)
        self._used.append(used)
        times: list[tuple[int, float]] = []
        for member, ones in enumerate(choices):
            demand = problem.demands[member]
            there: list[tuple[int, float]] = [(used, -1.0)]
            for one in ones:
                assert one.joules_per_row is not None
                busy = self._rate * demand / one.rows_per_s
                instance = program.column(upper=1.0, integer=self._whole)
                share = program.column(gain=-demand * one.joules_per_row / self._unit, upper=1.0)
                program.row([(share, 1.0), (instance, -min(1.0, max(free, 0.0) / busy))], upper=0.0)
                self._columns[device, member, one.batch] = instance, share
                there.append((instance, 1.0))
                times.append((share, busy))
                shares[member].append((share, 1.0))
            program.row(there, upper=0.0)
        program.row([*times, (used, -free)] if free > 0 else times, upper=min(free, 0.0))

    def _limit_memory(self) -> None:
        problem = self._problem
        for domain in problem.memory_domains:
            capacity = max(domain.memory_bytes, 1)
            terms = [
                (column, problem.profile(d, m, b).memory_bytes / capacity)
                for (d, m, b), (column, _) in self._columns.items()
                if d in domain.devices
            ]
            if len(domain.devices) == 1:
                self._program.row([*terms, (self._used[domain.devices[0]], -1.0)], upper=0.0)
            else:
                self._program.row(terms, upper=1.0)

    def solve(self, start: Cells | None, time_limit_s: float) -> Solved:
        solver = self._program.solver()
        solver.setOptionValue("mip_rel_gap", _GAP)
        solver.setOptionValue("time_limit", max(time_limit_s, 0.01))
        if start is not None:
            columns = np.array([column for column, _ in self._columns.values()], np.int32)
            there = [float(start[d, m] == b) for d, m, b in self._columns]
            solver.setSolution(len(columns), columns, np.array(there))
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        finished = status != highspy.HighsModelStatus.kTimeLimit
        if status not in _SOLVED:
            is_refuted = status == highspy.HighsModelStatus.kInfeasible
            return Solved(None, math.inf if is_refuted else 0.0, frozenset(), is_refuted)
        bound = info.mip_dual_bound if self._whole else info.objective_function_value
        if not self._whole and not finished:
            bound = 0.0  # a solution that is not the best one bounds nothing
        bound = max(-float(bound), 0.0) * self._unit if math.isfinite(bound) else 0.0
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return Solved(None, bound, frozenset(), finished)
        values = solver.getSolution().col_value
        parts = frozenset(
            at for at, (_, share) in self._columns.items() if values[share] > _NOTHING
        )
        cells = self._problem.empty()
        for device, member, batch in parts if self._whole else ():
            cells[device, member] = batch
        fits = (self._problem.used_bytes(cells) <= self._problem.capacity_bytes).all()
        # Sizes may exceed the memory by less than the solver's tolerance.
        return Solved(cells if self._whole and fits else None, bound, parts, finished)


def energy_of(
    problem: Problem, cells: Cells, rows_per_s: float, *, most: bool = False
) -> tuple[float, Floats] | None:
    """Return the least (or most) joules per row at a rate, and the division of the rows.

    The division is each instance's share of its member's rows. None if the joules of an instance
    are not known, or the rate is too high.
    """
    program = Program()
    at = [(int(device), int(member)) for device, member in np.argwhere(cells)]
    members: list[list[tuple[int, float]]] = [[] for _ in problem.members]
    devices: list[list[tuple[int, float]]] = [[] for _ in problem.devices]
    for device, member in at:
        one = problem.profile(device, member, int(cells[device, member]))
        if one.joules_per_row is None:
            return None
        joules = one.joules_per_row * problem.demands[member]
        column = program.column(gain=joules if most else -joules)
        members[member].append((column, 1.0))
        devices[device].append((column, rows_per_s * problem.demands[member] / one.rows_per_s))
    for terms in members:
        program.row(terms, lower=1.0, upper=1.0)
    for device, terms in enumerate(devices):
        own = rows_per_s * problem.row_seconds(device)
        program.row(terms, upper=1.0 - own + _TOLERANCE)
    solver = program.solver()
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    shares = np.zeros(cells.shape)
    for (device, member), share in zip(at, solver.getSolution().col_value, strict=True):
        shares[device, member] = share
    return abs(float(solver.getInfo().objective_function_value)), shares
