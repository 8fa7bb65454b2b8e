"""The energy of an allocation: a linear program over which instance predicts which rows.

Pure, used in the process that plans an allocation. Profiles with joules flow in, joules per row of
traffic flow out.

Energy is that of full batches (see `allocator.problem`); a member's rows may be divided among its
instances at any ratio. Over the shares f[d, m] >= 0 of a member's rows, at T rows of traffic per
second:

    minimise sum_dm f[d, m] demand[m] e[d, m]
    subject to   sum_d f[d, m] = 1                                       for every member m
                 T (sum_m f[d, m] demand[m] / v[d, m] + row_s[d]) <= 1   for every device d

where e[d, m] are the joules of a row and v[d, m] is the rows/s of the instance if it had the device
for itself.
"""

from __future__ import annotations

import highspy
import numpy as np

from allocator.matrix import AllocationMatrix
from allocator.problem import Cells, Problem
from allocator.search.throughput import Floats, Program, solve_throughput

__all__ = ["joules_per_row"]

#: The throughput is the solution of another program: by so much a device may exceed its time.
_TOLERANCE = 1e-7


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
