"""The whole problem as one mixed-integer program, for a branch-and-bound solver.

Pure, used by the exact search; cells flow in, better cells and a bound flow out.

Binary z[d, m, b] says that there is such an instance, x[d, m, b] <= z is its share of the
device's time. It proves what small problems allow at best. It is also the way to find a place
for members where little memory is left, and to find the fewest instances.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from allocator.problem import Cells, Problem
from allocator.profiles import Profile
from allocator.search.throughput import Program, typical_rows_per_s

__all__ = ["Branched", "binaries", "fastest", "fewest", "some_place"]

_GAP = 1e-5
#: As small as the differences that make an order.
_ORDER_GAP = 1e-8
#: More batch sizes of a member than there are.
_MOST_SIZES = 32
#: An empty model has members without any option, so no solution.
_FINISHED = (
    highspy.HighsModelStatus.kOptimal,
    highspy.HighsModelStatus.kInfeasible,
    highspy.HighsModelStatus.kModelEmpty,
)


@dataclass(frozen=True)
class Branched:
    """What branch and bound found: the best cells, if any, and a bound (rows/s, or instances).

    Once it is `finished`, there is nothing more to find: without cells, there is nothing.
    """

    cells: Cells | None
    bound: float
    finished: bool


def binaries(problem: Problem) -> int:
    """How many binary variables the program of a problem has."""
    return sum(
        len(problem.efficient(device, member))
        for device, member in np.ndindex(len(problem.devices), len(problem.members))
    )


def fastest(
    problem: Problem, start: Cells, time_limit_s: float, *, bound: float = math.inf
) -> Branched:
    """Search for the highest throughput."""
    scale = typical_rows_per_s(problem)
    program = _Instances(problem, problem.efficient)
    program.limit_time(throughput_gain=1.0, at_most=bound)
    found = program.solve(start, time_limit_s)
    return Branched(found.cells, found.bound * scale, found.finished)


def fewest(
    problem: Problem, start: Cells, at_least: float, time_limit_s: float, *, in_order: bool = False
) -> Branched:
    """Search from `start` for the fewest instances with a throughput of `at_least` rows/s.

    `in_order` chooses, of as few, those that come first in the order of devices, members and, the
    fastest first, batch sizes.
    """
    program = _Instances(problem, problem.efficient, instance_gain=-1.0, in_order=in_order)
    program.limit_time(at_least=at_least, at_most=at_least)
    found = program.solve(start, time_limit_s, gap=_ORDER_GAP if in_order else _GAP)
    return Branched(found.cells, -found.bound, found.finished)


def some_place(problem: Problem, time_limit_s: float) -> Branched:
    """Search for any place for all members, each once with the least memory."""

    def least(device: int, member: int) -> tuple[Profile, ...]:
        return problem.efficient(device, member)[:1]

    return _Instances(problem, least).solve(None, time_limit_s)


class _Instances:
    """The program: which instances there are; on request, how they share the devices' time."""

    def __init__(
        self,
        problem: Problem,
        options: Callable[[int, int], Sequence[Profile]],
        instance_gain: float = 0.0,
        in_order: bool = False,
    ) -> None:
        self._problem = problem
        self._program = Program()
        self._columns: dict[tuple[int, int, int], int] = {}
        program = self._program
        devices, members = range(len(problem.devices)), range(len(problem.members))
        for device in devices:
            for member in members:
                own = []
                choices = options(device, member)
                for position, one in enumerate(choices):
                    gain = instance_gain
                    if in_order:
                        rank = device * len(members) + member, len(choices) - 1 - position
                        gain -= _later(*rank, len(devices) * len(members))
                    column = program.column(upper=1, integer=True, gain=gain)
                    self._columns[device, member, one.batch] = column
                    own.append((column, 1.0))
                if len(own) > 1:
                    program.row(own, upper=1)
        for domain in problem.memory_domains:
            capacity = max(domain.memory_bytes, 1)
            program.row(
                (
                    (column, problem.profile(d, m, b).memory_bytes / capacity)
                    for (d, m, b), column in self._columns.items()
                    if d in domain.devices
                ),
                upper=1,
            )
        for member in members:
            program.row(
                ((column, 1.0) for (_, m, _), column in self._columns.items() if m == member),
                lower=1,
            )

    def limit_time(
        self, *, throughput_gain: float = 0.0, at_least: float = 0.0, at_most: float = math.inf
    ) -> None:
        """Add the throughput, within limits, and the shares of the devices' time."""
        problem, program = self._problem, self._program
        scale = typical_rows_per_s(problem)
        throughput = program.column(gain=throughput_gain, lower=at_least / scale)
        speeds: list[list[tuple[int, float]]] = [
            [(throughput, -demand)] for demand in problem.demands
        ]
        times: list[list[tuple[int, float]]] = [
            [(throughput, own_s * scale)] if (own_s := problem.row_seconds(device)) else []
            for device in range(len(problem.devices))
        ]
        for (device, member, batch), column in self._columns.items():
            share = program.column(upper=1)
            speed = problem.profile(device, member, batch).rows_per_s
            # No instance needs to do more than the traffic asks of its member.
            useful = min(1.0, at_most * (1 + _GAP) * problem.demands[member] / speed)
            program.row([(share, 1.0), (column, -useful)], upper=0)
            times[device].append((share, 1.0))
            speeds[member].append((share, speed / scale))
        for terms in times:
            program.row(terms, upper=1)
        for terms in speeds:
            program.row(terms, lower=0)

    def solve(self, start: Cells | None, time_limit_s: float, *, gap: float = _GAP) -> Branched:
        """Solve it, from some cells if there are any."""
        end = time.monotonic() + time_limit_s
        solver = self._program.solver()
        solver.setOptionValue("mip_rel_gap", gap)
        while True:
            # The solver's clock goes on from run to run; a new row makes it forget the start.
            left_s = max(end - time.monotonic(), 0.01)
            solver.setOptionValue("time_limit", solver.getRunTime() + left_s)
            if start is not None:
                values = [float(start[d, m] == b) for d, m, b in self._columns]
                columns = np.array(list(self._columns.values()), np.int32)
                solver.setSolution(len(columns), columns, np.array(values))
            solver.run()
            status, info = solver.getModelStatus(), solver.getInfo()
            cells = None
            if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
                cells = self._cells(solver.getSolution().col_value)
                if self._forbid_overflow(solver, cells):
                    continue
            return Branched(cells, float(info.mip_dual_bound), status in _FINISHED)

    def _cells(self, solution: Sequence[float]) -> Cells:
        cells = self._problem.empty()
        for (device, member, batch), column in self._columns.items():
            if solution[column] > 0.5:
                cells[device, member] = batch
        return cells

    def _forbid_overflow(self, solver: highspy.Highs, cells: Cells) -> bool:
        """Whether cells take more than there is, by less than the solver's tolerance.

        If so, the instances that exceed a memory domain are forbidden to be there together.
        """
        domains = self._problem.memory_domains
        over = np.flatnonzero(self._problem.used_bytes(cells) > self._problem.capacity_bytes)
        for index in over:
            together = [
                self._columns[device, int(member), int(cells[device, member])]
                for device in domains[index].devices
                for member in np.flatnonzero(cells[device])
            ]
            columns, ones = np.array(together, np.int32), np.ones(len(together))
            solver.addRow(-highspy.kHighsInf, len(together) - 1.0, len(columns), columns, ones)
        return len(over) > 0


def _later(cell: int, slower: int, cells: int) -> float:
    """What an instance costs for coming later in the order; all of them cost less than one more.

    By roots of the cells' numbers: sums of whole numbers would often be equal.
    """
    return (math.sqrt(cell + 1) / math.sqrt(cells) + slower) / (_MOST_SIZES * cells)
