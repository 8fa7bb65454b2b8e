"""Fills memory that a search leaves with further instances of the members.

Pure, used in the process that plans an allocation; cells flow in, more cells flow out.

Rows are bound to a device late: whichever device is free takes the oldest rows of any member that
it holds. The performance model knows steady rates only, so a further instance adds nothing to it.
In truth it lets a lone request spread over more devices, evens out bursts, and takes over at once
when another device's worker dies; all it costs is memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from allocator.problem import Cells, Problem
from allocator.profiles import Profile

__all__ = ["fill_spare_memory"]

#: The share of a device's memory that is filled; measurements are not exact.
_FILLED = 0.9


def fill_spare_memory(problem: Problem, cells: Cells) -> Cells:
    """Return cells with instances added wherever their memory is to spare.

    A member spreads over devices of the class that it is on, GPU or CPU: rows that a slow device
    takes from a fast one would be late. The member with the fewest instances comes first, then
    the biggest, on the device with the most memory left; equals keep the given order.

    Args:
        problem: members, devices and profiles.
        cells: feasible cells; they stay part of the result.
    """
    cells = cells.copy()
    capacity = np.array([int(room.memory_bytes * _FILLED) for room in problem.rooms])
    while options := list(_options(problem, cells, capacity - problem.used_bytes(cells))):
        _, _, _, device, member, batch = min(options)
        cells[device, member] = batch
    return cells


def _options(
    problem: Problem, cells: Cells, left: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield what could be added, what is to come first being the least."""
    held = np.count_nonzero(cells, axis=0)
    on_cuda = np.array([device.is_cuda for device in problem.devices])
    for device, member in np.argwhere(cells == 0):
        if not cells[on_cuda == on_cuda[device], member].any():
            continue
        room = int(left[problem.room_of[device]])
        profile = _instance(problem, cells, int(device), int(member))
        if profile is not None and profile.memory_bytes <= room:
            yield (
                int(held[member]),
                -profile.memory_bytes,
                -room,
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
