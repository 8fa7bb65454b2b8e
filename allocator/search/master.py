"""The whole problem as a program over packings: bounds, and the best numbers of each.

Pure, used by the exact search where packings are few enough to be listed; packings flow in, rows/s
and cells flow out. All is in shares of the throughput `high` that is asked for at most.

Of each packing p of `allocator.search.packings` there are y[p] devices, and on those its instances
take x[p, i] of the time:

    maximise T   subject to   sum of x[p, i] v[p, i] >= T demand[m]   over instances of a member m
                              sum of y[p] over those with m >= 1      for every member m
                              sum of y[p] <= devices                  for every class of devices
                              sum_i x[p, i] <= y[p] (1 - T row_s)     for every packing p

This is the formulation of cutting stock by its patterns (Gilmore and Gomory, Operations Research 9,
1961), a Dantzig-Wolfe decomposition whose subproblem is one device: alike devices are counted, and
what does not fit together is in no packing, so even fractions of packings come close to what whole
ones allow. They do so because of a range of throughputs that is asked for: what reaches at least
`low` has the time that `low` leaves, and needs copies of a member for it; and where none reaches
more than `high`, no instance needs to do more than its member's part of that, x v <= high demand y.

The fractions are a linear program of few rows. Its columns are the vertices of a packing's shares
of time, each an order in which its instances take what they need; those that help are found by
their prices (column generation), and any prices give a bound (Lagrangian relaxation; Vanderbeck and
Wolsey, Operations Research Letters 19, 1996). Whole numbers are found by branch and bound over the
packings that the bound leaves (reduced cost fixing).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import highspy
import numpy as np

from allocator.search.branch import Branched
from allocator.search.packings import Integers, Packings
from allocator.search.pricing import Asked, Pricing, Rows
from allocator.search.throughput import INFINITY, Floats, Program

__all__ = ["Master"]

#: What a copy of a member that is missing costs, in units of the throughput that is asked for.
_MISSING = 10.0
_SAME = 1e-6
_GAIN = 1e-9
#: How close bisection comes to the lowest throughput that fractions refute.
_STEP = 1e-3


@dataclass(frozen=True, eq=False)
class _Fractions:
    """What fractions of packings reach at most, as a share of what is asked for.

    `bests` is what they reach at most with a whole device of each packing.
    """

    bound: float
    bests: Floats


class Master:
    """The program over the packings of a problem."""

    def __init__(self, packings: Packings) -> None:
        self._packings = packings
        # The columns so far: a packing and an order of its instances each.
        self._columns: dict[tuple[int, ...], None] = {}

    @property
    def size(self) -> int:
        """How many packings there are."""
        return len(self._packings.classes)

    def upper_bound(self, time_limit_s: float, *, low: float, high: float) -> float:
        """Lower the known bound `high`, to `low` at least, a throughput that is possible.

        It is about the lowest that fractions refute, or what is known when the time is up.
        """
        end = time.monotonic() + time_limit_s
        while high - low > _STEP * high and time.monotonic() < end:
            middle = (low + high) / 2
            asked = Asked.between(self._packings, middle, middle)
            if self._fractions(asked, end).bound < 1 - _SAME:
                high = middle
            else:
                low = middle
        return high

    def fastest(
        self, time_limit_s: float, *, low: float, high: float, most: int, gap: float
    ) -> Branched:
        """Search for the fastest allocation from `low` to a bound, `high`, among `most` packings.

        These are the most promising ones. The cells may be slower than `low` by a tolerance.
        """
        end = time.monotonic() + time_limit_s
        asked = Asked.between(self._packings, low, high)
        bests = self._fractions(asked, end).bests
        order = np.argsort(-bests, kind="stable")
        order = order[bests[order] >= low / high]
        if not len(order):
            return Branched(None, low, finished=True)
        whole = _Whole(self._packings, asked, np.sort(order[:most]))
        found = whole.solve(max(end - time.monotonic(), 0.01), gap)
        if len(order) <= most:
            return found
        others = min(float(bests[order[most]]), 1.0) * high
        return Branched(found.cells, max(found.bound, others), finished=False)

    def _fractions(self, asked: Asked, end: float) -> _Fractions:
        """Solve the program of fractions, as far as it helps to tell whether `high` is possible."""
        packings, pricing = self._packings, Pricing(self._packings, asked)
        members = len(asked.copies)
        solver = self._program(asked, pricing)
        found = _Fractions(math.inf, np.full(self.size, math.inf))
        while True:
            solver.run()
            prices = np.abs(np.array(solver.getSolution().row_dual))
            speed, copy = prices[:members], np.minimum(prices[members : 2 * members], _MISSING)
            values, orders = pricing.best(speed, copy)
            tops = np.zeros(len(packings.counts))
            np.maximum.at(tops, packings.classes, values)
            bound = float(tops @ packings.counts - copy @ asked.copies + max(0, 1 - speed.sum()))
            if bound < found.bound:
                found = _Fractions(bound, bound - tops[packings.classes] + values)
            reached = solver.getInfo().objective_function_value
            if found.bound < 1 - _SAME or reached > 1 - _SAME or time.monotonic() >= end:
                return found
            gains = values - prices[2 * members :][packings.classes]
            new = self._gaining(gains, orders)
            if not new:
                return found
            for column in pricing.columns(np.array(new)):
                rows = np.flatnonzero(column).astype(np.int32)
                solver.addCol(0.0, 0.0, INFINITY, len(rows), rows, column[rows])

    def _program(self, asked: Asked, pricing: Pricing) -> highspy.Highs:
        """The program with the columns so far."""
        program = Program()
        rows = Rows(self._packings, asked, program.column(gain=1.0, upper=1.0))
        for member in range(len(asked.copies)):
            rows.add(len(asked.copies) + member, program.column(gain=-_MISSING), 1.0)
        if self._columns:
            columns = pricing.columns(np.array(list(self._columns)))
            numbers = [program.column() for _ in columns]
            for key, row in np.argwhere(columns):
                rows.add(int(row), numbers[key], float(columns[key, row]))
        rows.close(program)
        return program.solver()

    def _gaining(self, gains: Floats, orders: Integers) -> list[tuple[int, ...]]:
        """Note and return columns that gain: of each class, the best with each of the members."""
        packings, chosen = self._packings, set[int]()
        for index in range(len(packings.counts)):
            usable = (packings.classes == index)[:, None] & (packings.holds > 0)
            chosen.update(np.where(usable, gains[:, None], -1.0).argmax(axis=0).tolist())
        keys = [(one, *orders[one].tolist()) for one in sorted(chosen) if gains[one] > _GAIN]
        new = [key for key in keys if key not in self._columns]
        self._columns.update(dict.fromkeys(new))
        return new


class _Whole:
    """The program over whole numbers of some packings, for a branch-and-bound solver."""

    def __init__(self, packings: Packings, asked: Asked, chosen: Integers) -> None:
        self._packings, self._asked, self._chosen = packings, asked, chosen
        program = Program()
        least = asked.low / asked.high
        rows = Rows(packings, asked, program.column(gain=1.0, lower=least, upper=1.0))
        members, self._numbers = len(asked.copies), list[int]()
        for packing in chosen:
            index = int(packings.classes[packing])
            number = program.column(upper=float(packings.counts[index]), integer=True)
            self._numbers.append(number)
            rows.add(2 * members + index, number, 1.0)
            times = [(number, -float(asked.times[index]))]
            for member, speed in zip(
                packings.members[packing], packings.speeds[packing], strict=True
            ):
                if member < 0:
                    break
                share, pace = program.column(), float(speed / asked.rows_per_s[member])
                rows.add(int(member), share, pace)
                rows.add(members + int(member), number, 1.0)
                times.append((share, 1.0))
                if pace > 1:
                    program.row([(share, pace), (number, -1.0)], upper=0.0)
            program.row(times, upper=0.0)
        rows.close(program)
        self._solver = program.solver()

    def solve(self, time_limit_s: float, gap: float) -> Branched:
        solver, high = self._solver, self._asked.high
        solver.setOptionValue("time_limit", time_limit_s)
        solver.setOptionValue("mip_rel_gap", gap)
        # It would take long here, and the solver finds and proves less after it.
        solver.setOptionValue("presolve", "off")
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            return Branched(None, self._asked.low, finished=True)
        cells = None
        if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
            values = np.array(solver.getSolution().col_value)[self._numbers]
            cells = self._packings.cells(self._chosen, np.rint(values))
        bound = min(float(info.mip_dual_bound), 1.0) * high
        return Branched(cells, bound, status == highspy.HighsModelStatus.kOptimal)
