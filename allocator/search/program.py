"""Builds linear and mixed-integer programs for HiGHS, row by row.

Pure, used by the searches that solve one. Columns and rows flow in, a `highspy.Highs` that holds
the program flows out.
"""

from __future__ import annotations

from collections.abc import Iterable

import highspy
import numpy as np

__all__ = ["INFINITY", "Program", "quiet_solver"]

INFINITY: float = highspy.kHighsInf


class Program:
    """A program in the making; what is to be maximised is the sum of the columns' `gain`."""

    def __init__(self) -> None:
        self._gains: list[float] = []
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._kinds: list[highspy.HighsVarType] = []
        self._row_lower: list[float] = []
        self._row_upper: list[float] = []
        self._starts = [0]
        self._indices: list[int] = []
        self._values: list[float] = []

    def column(
        self,
        *,
        gain: float = 0.0,
        lower: float = 0.0,
        upper: float = INFINITY,
        integer: bool = False,
    ) -> int:
        """Add a column and return its index."""
        self._gains.append(gain)
        self._lower.append(lower)
        self._upper.append(upper)
        kinds = highspy.HighsVarType
        self._kinds.append(kinds.kInteger if integer else kinds.kContinuous)
        return len(self._gains) - 1

    def row(
        self,
        terms: Iterable[tuple[int, float]],
        *,
        lower: float = -INFINITY,
        upper: float = INFINITY,
    ) -> int:
        """Add ``lower <= sum of factor * column <= upper`` and return its index.

        Args:
            terms: (column, factor), each column once.
            lower: of the sum.
            upper: of the sum.
        """
        for column, factor in terms:
            self._indices.append(column)
            self._values.append(factor)
        self._starts.append(len(self._indices))
        self._row_lower.append(lower)
        self._row_upper.append(upper)
        return len(self._row_lower) - 1

    def solver(self) -> highspy.Highs:
        """Return a solver that holds the program."""
        program = highspy.HighsLp()
        program.num_col_ = len(self._gains)
        program.num_row_ = len(self._row_lower)
        program.sense_ = highspy.ObjSense.kMaximize
        program.col_cost_ = np.array(self._gains)
        program.col_lower_ = np.array(self._lower)
        program.col_upper_ = np.array(self._upper)
        program.row_lower_ = np.array(self._row_lower)
        program.row_upper_ = np.array(self._row_upper)
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.array(self._starts, np.int32)
        program.a_matrix_.index_ = np.array(self._indices, np.int32)
        program.a_matrix_.value_ = np.array(self._values)
        if highspy.HighsVarType.kInteger in self._kinds:
            program.integrality_ = self._kinds
        solver = quiet_solver()
        solver.passModel(program)
        return solver


def quiet_solver() -> highspy.Highs:
    """Return a solver that prints nothing and uses one thread."""
    solver: highspy.Highs = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    return solver
