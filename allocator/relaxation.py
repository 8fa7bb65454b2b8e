"""Upper bounds: no allocation can be faster than this.

Pure, used by the exact search; a problem flows in, rows/s flow out.

Devices of one kind and one size of memory are alike, so they are counted instead of told apart:
of every instance there are Z[class, m, b] copies, which take X[class, m, b] <= Z devices' time.
Time and memory are limited for the class as a whole, and instances bigger than 1/(k+1) of a
device are limited to k per device. Every allocation is such a solution, but not the other way
round. Where devices have many sizes of memory, those of similar size are counted as the biggest
of them, which relaxes the problem further but keeps it small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import highspy

from allocator.problem import Problem
from allocator.program import Program
from allocator.throughput import typical_rows_per_s

__all__ = ["InfeasibleError", "upper_bound"]

_MOST_CLASSES = 12
_MOST_PER_DEVICE = 6
_GAP = 1e-4


class InfeasibleError(Exception):
    """It is proven that no allocation exists."""


@dataclass(frozen=True)
class _Class:
    """Devices that are counted as one another's equals.

    Attributes:
        devices: their indices.
        memory_bytes: the memory of the biggest of them.
        room_bytes: the memory of all of them together.
    """

    devices: tuple[int, ...]
    memory_bytes: int
    room_bytes: int

    @property
    def typical(self) -> int:
        """A device with the most memory."""
        return self.devices[0]


def upper_bound(problem: Problem, *, counts: bool, time_limit_s: float, max_nodes: int) -> float:
    """Return rows/s that no allocation exceeds.

    Args:
        problem: members, devices and profiles.
        counts: whether copies are whole numbers, which takes longer and tells more.
        time_limit_s: when to stop; a bound is a bound whenever that is.
        max_nodes: of the branch-and-bound tree, with `counts`.

    Raises:
        InfeasibleError: if no allocation exists.
    """
    most = _MOST_CLASSES if counts else len(problem.devices)
    scale = typical_rows_per_s(problem)
    solver = _program(problem, _classes(problem, most), scale, counts).solver()
    solver.setOptionValue("time_limit", max(time_limit_s, 0.01))
    solver.setOptionValue("mip_max_nodes", max_nodes)
    solver.setOptionValue("mip_rel_gap", _GAP)
    solver.run()
    if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        raise InfeasibleError
    info = solver.getInfo()
    if counts:
        bound = info.mip_dual_bound
    elif solver.getModelStatus() == highspy.HighsModelStatus.kOptimal:
        bound = info.objective_function_value
    else:
        bound = math.inf
    return bound * scale if bound < highspy.kHighsInf else math.inf


def _program(problem: Problem, classes: list[_Class], scale: float, counts: bool) -> Program:
    program = Program()
    throughput = program.column(gain=1.0)
    members = range(len(problem.members))
    speeds: list[list[tuple[int, float]]] = [[(throughput, -1.0)] for _ in members]
    copies: list[list[tuple[int, float]]] = [[] for _ in members]
    for one in classes:
        number = len(one.devices)
        own_s = sum(problem.row_seconds(device) for device in one.devices) * scale
        times: list[tuple[int, float]] = [(throughput, own_s)] if own_s else []
        memory: list[tuple[int, float]] = []
        big: list[list[tuple[int, float]]] = [[] for _ in range(_MOST_PER_DEVICE)]
        for member in members:
            own: list[tuple[int, float]] = []
            for option in problem.efficient(one.typical, member):
                copy = program.column(upper=number, integer=counts)
                time = program.column(upper=number)
                program.row([(time, 1.0), (copy, -1.0)], upper=0.0)
                own.append((copy, 1.0))
                times.append((time, 1.0))
                memory.append((copy, option.memory_bytes / max(one.memory_bytes, 1)))
                speeds[member].append((time, option.rows_per_s / scale))
                for most in range(1, _MOST_PER_DEVICE):
                    if option.memory_bytes * (most + 1) > one.memory_bytes:
                        big[most].append((copy, 1.0))
            if own:
                program.row(own, upper=number)
                copies[member] += own
        program.row(times, upper=number)
        program.row(memory, upper=one.room_bytes / max(one.memory_bytes, 1))
        for most in range(1, _MOST_PER_DEVICE):
            if big[most] and not _is_pooled(problem, one):
                program.row(big[most], upper=most * number)
    for member in members:
        program.row(speeds[member], lower=0.0)
        program.row(copies[member], lower=1.0)
    return program


def _is_pooled(problem: Problem, one: _Class) -> bool:
    return bool(problem.devices[one.typical].pool)


def _classes(problem: Problem, most: int) -> list[_Class]:
    """Group the devices: at most about `most` classes, never fewer than kinds and pools."""
    alike: dict[tuple[str, str], list[int]] = {}
    for index, device in enumerate(problem.devices):
        alike.setdefault((device.kind, device.pool), []).append(index)
    classes = []
    for (_, pool), indices in alike.items():
        if pool:
            # Other kinds may share the pool: to count it for each of them is a relaxation, too.
            room = problem.rooms[problem.room_of[indices[0]]].memory_bytes
            classes.append(_Class(tuple(indices), room, room))
            continue
        by_memory = sorted(indices, key=lambda d: -problem.devices[d].memory_bytes)
        sizes = sorted({problem.devices[d].memory_bytes for d in indices}, reverse=True)
        groups = max(1, min(len(sizes), most // len(alike)))
        # Boundaries between sizes, so that equal devices stay together.
        tops = [sizes[len(sizes) * g // groups] for g in range(groups)]
        for top, below in zip(tops, [*tops[1:], -1], strict=True):
            group = [d for d in by_memory if top >= problem.devices[d].memory_bytes > below]
            total = sum(problem.devices[d].memory_bytes for d in group)
            classes.append(_Class(tuple(group), top, total))
    return classes
