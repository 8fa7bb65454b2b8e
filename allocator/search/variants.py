"""Variants of an allocation: with its spare memory filled, and neighbours worth measuring.

Pure, used in the process that plans an allocation; a problem and cells flow in, other feasible
cells flow out. The performance model knows steady rates only, so it does not see what these differ
in: whether idle instances help, what a batch size costs when batches are not full, and how many
instances there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from allocator.problem import Cells, NoPlaceError, Problem
from allocator.profiles import Profile
from allocator.search.greedy import AnalyticScorer, greedy, worst_fit

__all__ = ["Neighbour", "fill_spare_memory", "neighbours"]

#: The share of a device's memory that is filled; measurements are not exact.
_FILLED = 0.9


def fill_spare_memory(problem: Problem, cells: Cells) -> Cells:
    """Return cells with instances added wherever their memory is to spare.

    A member spreads over devices of the class that it is on, GPU or CPU: rows that a slow device
    takes from a fast one would be late. The member with the fewest instances comes first, then
    the biggest, on the device with the most memory left; equals keep the given order.
    """
    cells = cells.copy()
    capacity = np.array([int(domain.memory_bytes * _FILLED) for domain in problem.memory_domains])
    while options := list(_options(problem, cells, capacity - problem.used_bytes(cells))):
        _, _, _, device, member, batch = min(options)
        cells[device, member] = batch
    return cells


def _options(
    problem: Problem, cells: Cells, left: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield the instances that could be added; the least one should be added first."""
    held = np.count_nonzero(cells, axis=0)
    on_cuda = np.array([device.is_cuda for device in problem.devices])
    for device, member in np.argwhere(cells == 0):
        if not cells[on_cuda == on_cuda[device], member].any():
            continue
        free_bytes = int(left[problem.domain_of[device]])
        profile = _instance(problem, cells, int(device), int(member))
        if profile is not None and profile.memory_bytes <= free_bytes:
            yield (
                int(held[member]),
                -profile.memory_bytes,
                -free_bytes,
                int(device),
                int(member),
                profile.batch,
            )


def _instance(problem: Problem, cells: Cells, device: int, member: int) -> Profile | None:
    """What to add: as the member is on other devices of the kind, else the fastest that fits."""
    kind = problem.devices[device].kind
    options = problem.efficient(device, member)
    for other, batch in enumerate(cells[:, member]):
        if batch and problem.devices[other].kind == kind:
            return next(
                (one for one in problem.options(device, member) if one.batch == batch), None
            )
    return options[-1] if options else None


@dataclass(frozen=True, eq=False)
class Neighbour:
    """An allocation near the optimum; `what` says how it differs, for people."""

    what: str
    cells: Cells


def neighbours(
    problem: Problem, optimum: Cells, *, fill: bool = True, seed: int = 0, most: int = 8
) -> list[Neighbour]:
    """Return the optimum and its neighbours in the order of their promise.

    They are distinct and at most `most`, which is 1 or more: the optimum; the same with its spare
    memory left, or filled; what greedy finds; and the optimum with every batch size one step
    smaller, or larger, on one kind of device. The given optimum's spare memory is not filled;
    `fill` fills that of all but one of those returned.
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
