"""The throughput of an allocation matrix: a linear program, solved again and again.

Pure, used by the searches; cells flow in, rows/s and the share of each device's time flow out.
`Program` builds this and the other programs for HiGHS, row by row.

Over time shares x[d, m] >= 0 (x = r t / b of the performance model, see `allocator.problem`):

    maximise T   subject to   sum_d x[d, m] v[d, m] >= T demand[m]   for every member m
                              sum_m x[d, m] + T row_s[d] <= 1         for every device d

where v[d, m] is the rows/s of the instance if it had the device for itself, and T are rows of
traffic per second. A search changes few cells between two questions, so the solver starts from the
last answer.

T is that of the slowest member, so it is silent about most changes: one member that has a single
slow instance hides all others. A search that is to see them adds to T a small gain for every
member that is ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterable

import highspy
import numpy as np
import numpy.typing as npt

from allocator.problem import Cells, Problem

__all__ = [
    "Floats",
    "INFINITY",
    "Program",
    "ThroughputModel",
    "solve_throughput",
    "typical_rows_per_s",
]

INFINITY: float = highspy.kHighsInf


class _Silent(highspy.Highs):
    """A solver that prints nothing, not even its name at the first callback of a process."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)


class Program:
    """Builds a linear program that maximises the sum of the columns' `gain`."""

    def __init__(self) -> None:
        self._columns: list[tuple[float, float, float]] = []  # gain, lower, upper
        self._kinds: list[highspy.HighsVarType] = []
        self._rows: list[tuple[float, float]] = []  # lower, upper
        self._starts = [0]
        self._terms: list[tuple[int, float]] = []

    def column(
        self,
        *,
        gain: float = 0.0,
        lower: float = 0.0,
        upper: float = INFINITY,
        integer: bool = False,
    ) -> int:
        """Add a column and return its index."""
        kinds = highspy.HighsVarType
        self._columns.append((gain, lower, upper))
        self._kinds.append(kinds.kInteger if integer else kinds.kContinuous)
        return len(self._columns) - 1

    def row(
        self,
        terms: Iterable[tuple[int, float]],
        *,
        lower: float = -INFINITY,
        upper: float = INFINITY,
    ) -> None:
        """Add ``lower <= sum of factor * column <= upper``.

        The terms are (column, factor), each column once.
        """
        self._terms += terms
        self._starts.append(len(self._terms))
        self._rows.append((lower, upper))

    def solver(self) -> highspy.Highs:
        """Return a solver that holds the program, prints nothing and uses one thread."""
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = len(self._columns), len(self._rows)
        program.sense_ = highspy.ObjSense.kMaximize
        columns = np.array(self._columns).reshape(-1, 3)
        program.col_cost_, program.col_lower_, program.col_upper_ = columns.T
        program.row_lower_, program.row_upper_ = np.array(self._rows).reshape(-1, 2).T
        matrix = program.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.start_ = np.array(self._starts, np.int32)
        matrix.index_ = np.array([column for column, _ in self._terms], np.int32)
        matrix.value_ = np.array([factor for _, factor in self._terms])
        if highspy.HighsVarType.kInteger in self._kinds:
            program.integrality_ = self._kinds
        solver = _Silent()  # type: ignore[no-untyped-call]
        solver.setOptionValue("threads", 1)
        solver.passModel(program)
        return solver


Floats = npt.NDArray[np.float64]


class ThroughputModel:
    """The linear program of one problem, for cells that change.

    Each row/s of traffic that a member is ahead of the throughput adds `ahead_gain` to it, up to
    `most_ahead` rows/s.
    """

    def __init__(
        self, problem: Problem, *, ahead_gain: float = 0.0, most_ahead: float = 0.0
    ) -> None:
        self._problem = problem
        self._shape = devices, members = len(problem.devices), len(problem.members)
        self._cells = problem.empty()
        self._scale = typical_rows_per_s(problem)
        program = Program()
        throughput = program.column(gain=1.0)
        # A cell without an instance has a share of at most 0, and a speed that means nothing.
        shares = np.array(
            [[program.column(upper=0.0) for _ in range(members)] for _ in range(devices)]
        )
        for member, demand in enumerate(problem.demands):
            terms = [(int(column), 1.0) for column in shares[:, member]]
            if ahead_gain:
                ahead = program.column(gain=ahead_gain, upper=most_ahead / self._scale)
                terms.append((ahead, -demand))
            program.row([(throughput, -demand), *terms], lower=0.0)
        for device in range(devices):
            own_s = problem.row_seconds(device) * self._scale
            terms = [(int(column), 1.0) for column in shares[device]]
            program.row([(throughput, own_s), *terms] if own_s else terms, upper=1.0)
        self._solver = program.solver()

    def put(self, device: int, member: int, batch: int) -> None:
        """Set one cell; 0 removes the instance."""
        before = self._cells[device, member]
        if batch == before:
            return
        self._cells[device, member] = batch
        column = 1 + device * self._shape[1] + member
        if batch:
            speed = self._problem.profile(device, member, batch).rows_per_s
            self._solver.changeCoeff(member, column, speed / self._scale)
        if bool(batch) != bool(before):
            # The device's row limits it: a bound of 1 would take a share of the device's price.
            self._solver.changeColBounds(column, 0.0, INFINITY if batch else 0.0)

    def put_row(self, device: int, row: Cells) -> None:
        """Set all cells of a device."""
        for member in np.flatnonzero(row != self._cells[device]):
            self.put(device, int(member), int(row[member]))

    def put_all(self, cells: Cells) -> None:
        """Set all cells."""
        for device in np.flatnonzero((cells != self._cells).any(axis=1)):
            self.put_row(int(device), cells[device])

    def rows_per_s(self) -> float:
        """The throughput of the present cells with all gains, 0 if a member has no instance."""
        if not self._cells.any(axis=0).all():
            return 0.0
        self._solver.run()
        return float(self._solver.getInfo().objective_function_value) * self._scale

    def shares(self) -> Floats:
        """The share of each device's time that each instance takes, as last solved."""
        cells = self._cells.size
        values = self._solver.getSolution().col_value[1 : 1 + cells]
        return np.array(values).reshape(self._shape)

    def prices(self) -> tuple[Floats, Floats]:
        """What limits the throughput, as last solved: the prices of members and of devices.

        A price is by how many rows/s the throughput would rise with one more row/s of the member
        alone (0 for members that don't limit it), or with one more second per second of the device.
        """
        duals = np.abs(np.array(self._solver.getSolution().row_dual))
        members = self._shape[1]
        return duals[:members], duals[members:] * self._scale


def solve_throughput(problem: Problem, cells: Cells) -> tuple[float, Floats]:
    """Return the throughput of cells in rows/s, and each instance's share of its device's time."""
    model = ThroughputModel(problem)
    model.put_all(cells)
    throughput = model.rows_per_s()
    return throughput, model.shares() if throughput else np.zeros(cells.shape)


def typical_rows_per_s(problem: Problem) -> float:
    """Rows/s to measure T by, so that a solver's tolerances mean the same for every problem."""
    seconds = 0.0
    for member, demand in enumerate(problem.demands):
        rates = [
            one.rows_per_s
            for device in range(len(problem.devices))
            for one in problem.options(device, member)
        ]
        seconds += demand / max(rates, default=1.0)
    return len(problem.devices) / seconds
