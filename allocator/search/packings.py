"""What a device can hold: every set of instances that leaves no memory for more.

Pure, used by the exact search where memory is tight; a problem flows in, packings flow out.

A *packing* is a set of instances, at most one of each member, that fits one device, maximal in that
no member can be added and no batch size raised to the next faster one; to hold more is never worse.
Where a device holds a handful of members there are hundreds to thousands. Where it holds many,
there are too many to list, which is noticed early. Devices of one kind with as much memory (and as
much work of their own) are alike and share their packings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from allocator.problem import Cells, Problem
from allocator.search.throughput import Floats

__all__ = ["Packings", "list_packings"]

#: How many packings, and sets on the way to them, are few.
_MOST = 20_000
#: How many instances are few: with more, devices are divided finely enough for simpler methods.
_MOST_INSTANCES = 5

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Packings:
    """The packings of a problem's devices.

    Attributes:
        problem: what they are of.
        alike: the devices of each class.
        classes: [packings], the class whose devices a packing fits.
        levels: [packings, members], 0 without an instance, else 1 + its place among the efficient
            ones.
    """

    problem: Problem
    alike: tuple[tuple[int, ...], ...]
    classes: Integers
    levels: npt.NDArray[np.int16]

    @cached_property
    def holds(self) -> Floats:
        """[packings, members], 1 where there is an instance, else 0."""
        return (self.levels > 0).astype(np.float64)

    @cached_property
    def counts(self) -> Integers:
        """How many devices there are of each class."""
        return np.array([len(devices) for devices in self.alike])

    @cached_property
    def row_seconds(self) -> Floats:
        """Seconds that each row of traffic costs a device of each class, see `Problem.row_s`."""
        return np.array([self.problem.row_seconds(devices[0]) for devices in self.alike])

    @cached_property
    def members(self) -> Integers:
        """[packings, most instances], the members of the instances; at the end, -1 for none."""
        most = int(np.count_nonzero(self.levels, axis=1).max(initial=1))
        order = np.argsort(self.levels == 0, axis=1, kind="stable")[:, :most]
        return np.where(np.take_along_axis(self.levels, order, 1) > 0, order, -1)

    @cached_property
    def speeds(self) -> Floats:
        """[packings, most instances], the instances' rows/s; 1 for none."""
        problem, most = self.problem, int(self.levels.max(initial=0))
        table = np.ones((len(self.alike), len(problem.members) + 1, most + 1))
        for index, devices in enumerate(self.alike):
            for member in range(len(problem.members)):
                for level, one in enumerate(problem.efficient(devices[0], member), 1):
                    if level <= most:
                        table[index, member, level] = one.rows_per_s
        levels = np.take_along_axis(self.levels, np.maximum(self.members, 0), 1)
        return table[self.classes[:, None], self.members, np.where(self.members < 0, 0, levels)]

    @cached_property
    def fastest(self) -> Floats:
        """[members], the highest rows/s of an instance, infinitely little where there is none."""
        fastest = np.full(len(self.problem.members), np.finfo(np.float64).tiny)
        there = self.members >= 0
        np.maximum.at(fastest, self.members[there], self.speeds[there])
        return fastest

    def cells(self, packings: Integers, numbers: Floats) -> Cells:
        """Return cells in which so many devices hold each of some packings."""
        cells = self.problem.empty()
        free = [iter(devices) for devices in self.alike]
        for packing in np.repeat(packings, numbers.astype(np.int64)):
            device = next(free[self.classes[packing]])
            for member in np.flatnonzero(self.levels[packing]):
                options = self.problem.efficient(device, int(member))
                cells[device, member] = options[self.levels[packing, member] - 1].batch
        return cells


def list_packings(problem: Problem, most: int = _MOST) -> Packings | None:
    """Return all packings of a problem's devices, None if they are not few.

    They are not if they are more than `most`, if one holds more than 5 instances, or if devices
    share memory.
    """
    if any(len(domain.devices) > 1 for domain in problem.memory_domains):
        return None
    alike: dict[tuple[str, int, float], list[int]] = {}
    for index, device in enumerate(problem.devices):
        key = device.kind, device.memory_bytes, problem.row_seconds(index)
        alike.setdefault(key, []).append(index)
    found: list[npt.NDArray[np.int16]] = []
    for (_, capacity, _), devices in alike.items():
        sizes = [
            [one.memory_bytes for one in problem.efficient(devices[0], member)]
            for member in range(len(problem.members))
        ]
        levels = _maximal(sizes, capacity, most - sum(map(len, found)))
        if levels is None or np.count_nonzero(levels, axis=1).max() > _MOST_INSTANCES:
            return None
        found.append(levels)
    return Packings(
        problem,
        tuple(map(tuple, alike.values())),
        np.repeat(np.arange(len(found)), [len(levels) for levels in found]),
        np.concatenate(found),
    )


def _maximal(
    sizes: Sequence[Sequence[int]], capacity: int, most: int
) -> npt.NDArray[np.int16] | None:
    """Return the maximal choices, [choices, members], of at most one size of each member.

    Members are decided one after another. A choice is given up once the biggest sizes of all that
    follow would leave enough for a bigger size of one that is decided.
    """
    levels, used = np.zeros((1, len(sizes)), np.int16), np.zeros(1, np.int64)
    raises = np.full(1, capacity + 1, np.int64)  # the least that a bigger size would take
    rest = sum(own[-1] for own in sizes if own)
    for member in sorted(range(len(sizes)), key=lambda m: -sum(sizes[m][:1])):
        own = np.array([0, *sizes[member]], np.int64)
        rest -= int(own[-1])
        longer: list[tuple[npt.NDArray[np.int16], Integers, Integers]] = []
        for level, raised in enumerate([*np.diff(own), capacity + 1]):
            taken, least = used + own[level], np.minimum(raises, raised)
            keep = (taken <= capacity) & (capacity - taken - rest < least)
            chosen = levels[keep]
            chosen[:, member] = level
            longer.append((chosen, taken[keep], least[keep]))
        if sum(len(chosen) for chosen, _, _ in longer) > most:
            return None
        levels, used, raises = (np.concatenate(parts) for parts in zip(*longer, strict=True))
    return levels
