"""The allocations that may well be better in truth than the best one by the performance model.

Pure, used in the process that plans an allocation. A problem and its optimum flow in, few feasible
cells flow out, to be measured: they differ in what the model does not see, which is whether idle
instances help, what a batch size costs when batches are not full, and how many instances there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from allocator.problem import Cells, NoPlaceError, Problem
from allocator.search.greedy import AnalyticScorer, greedy
from allocator.search.spare import fill_spare_memory
from allocator.search.worst_fit import worst_fit

__all__ = ["Neighbour", "neighbours"]


@dataclass(frozen=True, eq=False)
class Neighbour:
    """An allocation near the optimum.

    Attributes:
        what: how it differs, for people.
        cells: feasible batch sizes.
    """

    what: str
    cells: Cells


def neighbours(
    problem: Problem, optimum: Cells, *, fill: bool = True, seed: int = 0, most: int = 8
) -> list[Neighbour]:
    """Return the optimum and its neighbours, distinct and in the order of their promise.

    They are: the optimum; the same with its spare memory left, or filled; what greedy finds; and
    the optimum with every batch size one step smaller, or larger, on one kind of device.

    Args:
        problem: members, devices and profiles.
        optimum: feasible cells, spare memory not filled.
        fill: whether all but one of them have their spare memory filled.
        seed: of greedy.
        most: how many to return at most, 1 or more.
    """
    found: dict[bytes, Neighbour] = {}
    for what, cells in _candidates(problem, optimum, fill=fill, seed=seed):
        found.setdefault(cells.tobytes(), Neighbour(what, cells))
        if len(found) == most:
            break
    return list(found.values())


def _candidates(
    problem: Problem, optimum: Cells, *, fill: bool, seed: int
) -> Iterator[tuple[str, Cells]]:
    def dressed(cells: Cells) -> Cells:
        return fill_spare_memory(problem, cells) if fill else cells.copy()

    yield "the optimum", dressed(optimum)
    if fill:
        yield "spare memory left", optimum.copy()
    else:
        yield "spare memory filled", fill_spare_memory(problem, optimum)
    try:
        start = worst_fit(problem)
    except NoPlaceError:
        pass  # there is a place all the same, since there is an optimum
    else:
        yield "greedy", dressed(greedy(problem, start, AnalyticScorer(problem), seed=seed))
    for kind in dict.fromkeys(device.kind for device in problem.devices):
        for step, how in ((-1, "smaller"), (1, "larger")):
            cells = _stepped(problem, optimum, kind, step)
            if (problem.used_bytes(cells) <= problem.capacity_bytes).all():
                yield f"{how} batches on {kind}", dressed(cells)


def _stepped(problem: Problem, cells: Cells, kind: str, step: int) -> Cells:
    """Every batch size on a kind of device one profiled size up or down, where there is one."""
    cells = cells.copy()
    for device, member in np.argwhere(cells):
        if problem.devices[device].kind == kind:
            sizes = [one.batch for one in problem.options(int(device), int(member))]
            at = sizes.index(int(cells[device, member])) + step
            cells[device, member] = sizes[min(max(at, 0), len(sizes) - 1)]
    return cells
