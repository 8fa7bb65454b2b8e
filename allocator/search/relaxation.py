"""Upper bounds: no allocation can be faster than this.

Pure, used by the exact search; a problem flows in, rows/s flow out.

Devices of one kind and one size of memory are alike, so they are counted instead of distinguished:
of every instance there are Z[class, m, b] copies, which take X[class, m, b] <= Z devices' time.
Time and memory are limited for the class as a whole, and instances bigger than 1/(k+1) of a
device are limited to k per device. Every allocation is such a solution, but not the other way
round. Where devices have many sizes of memory, those of similar size are counted as the biggest
of them, which relaxes the problem further but keeps it small.

Whether a throughput T is possible is easier to refute than the best one is to find ("destructive
bounds", Klein and Scholl, European Journal of Operational Research 112, 1999): an allocation that
can do more can also do T. Then no copy needs to do more than T, so X v <= T Z, and a member needs
T over its highest speed copies at least, rounded up. (Of a member with a demand, read T times that
for T.)
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import highspy

from allocator.problem import Problem
from allocator.search.throughput import INFINITY, Program, typical_rows_per_s

__all__ = ["InfeasibleError", "counting_bound", "upper_bound"]

_Terms = list[tuple[int, float]]

_MOST_CLASSES = 12
_MOST_PER_DEVICE = 6
_GAP = 1e-4
#: How close bisection comes to the lowest throughput that it can refute.
_STEP = 1e-3
_SAME = 1e-5


class InfeasibleError(Exception):
    """It is proven that no allocation exists."""


@dataclass(frozen=True)
class _Class:
    """Devices that are counted as one another's equals, with the memory of the biggest of them."""

    devices: tuple[int, ...]
    memory_bytes: int
    total_bytes: int

    @property
    def typical(self) -> int:
        """A device with the most memory."""
        return self.devices[0]


def counting_bound(problem: Problem, time_limit_s: float, *, known: float, max_nodes: int) -> float:
    """Lower a known bound by counting copies in whole numbers: slower, and tighter.

    Raises:
        InfeasibleError: if no allocation exists.
    """
    relaxation = _Relaxation(problem, _MOST_CLASSES)
    return min(known, relaxation.solve(time_limit_s, target=known, max_nodes=max_nodes))


def upper_bound(problem: Problem, time_limit_s: float, *, at_least: float = 0.0) -> float:
    """Return rows/s that no allocation exceeds, about the lowest that fractions of copies refute.

    A bound is a bound whenever the time is up. A throughput that is possible, `at_least`, saves the
    search below it.

    Raises:
        InfeasibleError: if no allocation exists.
    """
    end = time.monotonic() + time_limit_s
    busiest_s = max(map(problem.row_seconds, range(len(problem.devices))))
    most = 1 / busiest_s if busiest_s else math.inf
    bound = min(_Relaxation(problem, len(problem.devices)).solve(time_limit_s), most)
    relaxation = _Relaxation(problem, _MOST_CLASSES)
    while bound - at_least > _STEP * bound and time.monotonic() < end:
        middle = (bound + at_least) / 2
        try:
            reached = relaxation.solve(end - time.monotonic(), target=middle, rounded=True)
        except InfeasibleError:
            reached = 0.0
        if reached < middle * (1 - _SAME):
            bound = middle
        else:
            at_least = middle
    return bound


class _Relaxation:
    """The program, at some detail."""

    def __init__(self, problem: Problem, most_classes: int) -> None:
        self._problem = problem
        self._classes = _classes(problem, most_classes)
        self._scale = typical_rows_per_s(problem)

    def solve(
        self,
        time_limit_s: float,
        *,
        target: float = math.inf,
        rounded: bool = False,
        max_nodes: int = 0,
    ) -> float:
        """Return the most that is possible here, infinity if that is not known in time.

        The throughput `target` need not be exceeded; with `rounded`, only allocations that reach it
        are of interest. `max_nodes` is of branch and bound over whole copies; 0 counts fractions.

        Raises:
            InfeasibleError: if there is no solution.
        """
        solver = self._program(target, rounded, max_nodes > 0).solver()
        solver.setOptionValue("time_limit", max(time_limit_s, 0.01))
        solver.setOptionValue("mip_max_nodes", max_nodes)
        solver.setOptionValue("mip_rel_gap", _GAP)
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            raise InfeasibleError
        bound = math.inf
        if max_nodes:
            bound = info.mip_dual_bound
        elif status == highspy.HighsModelStatus.kOptimal:
            bound = info.objective_function_value
        return bound * self._scale if bound < highspy.kHighsInf else math.inf

    def _program(self, target: float, rounded: bool, whole: bool) -> Program:
        problem, program, scale = self._problem, Program(), self._scale
        throughput = program.column(gain=1.0, upper=min(target / scale, INFINITY))
        speeds: list[_Terms] = [[(throughput, -demand)] for demand in problem.demands]
        copies: list[_Terms] = [[] for _ in problem.members]
        for one in self._classes:
            own_s = sum(problem.row_seconds(device) for device in one.devices) * scale
            times: _Terms = [(throughput, own_s)] if own_s else []
            sizes: list[tuple[int, int]] = []
            for member, demand in enumerate(problem.demands):
                own: _Terms = []
                for option in problem.efficient(one.typical, member):
                    copy = program.column(upper=len(one.devices), integer=whole)
                    share = program.column()
                    useful = min(1.0, target * demand / option.rows_per_s)
                    program.row([(share, 1.0), (copy, -useful)], upper=0.0)
                    own.append((copy, 1.0))
                    times.append((share, 1.0))
                    sizes.append((copy, option.memory_bytes))
                    speeds[member].append((share, option.rows_per_s / scale))
                program.row(own, upper=len(one.devices))
                copies[member] += own
            program.row(times, upper=len(one.devices))
            self._limit_memory(program, one, sizes)
        for speed, copy_terms, demand in zip(speeds, copies, problem.demands, strict=True):
            program.row(speed, lower=0.0)
            fastest = max((rate * scale for _, rate in speed[1:]), default=math.inf)
            needed = math.ceil(target * demand / fastest * (1 - _SAME)) if rounded else 1
            program.row(copy_terms, lower=max(needed, 1))
        return program

    def _limit_memory(self, program: Program, one: _Class, sizes: list[tuple[int, int]]) -> None:
        """Limit the memory of a class as a whole, and how many big copies its devices hold."""
        unit = max(one.memory_bytes, 1)
        program.row([(copy, size / unit) for copy, size in sizes], upper=one.total_bytes / unit)
        for most in range(1, _MOST_PER_DEVICE):
            big = [(copy, 1.0) for copy, size in sizes if size * (most + 1) > one.memory_bytes]
            if big and not self._problem.devices[one.typical].pool:
                program.row(big, upper=most * len(one.devices))


def _classes(problem: Problem, most: int) -> list[_Class]:
    """Group the devices: at most about `most` classes, never fewer than kinds and pools."""
    alike: dict[tuple[str, str], list[int]] = {}
    for index, device in enumerate(problem.devices):
        alike.setdefault((device.kind, device.pool), []).append(index)
    classes = []
    for (_, pool), indices in alike.items():
        if pool:
            # Other kinds may share the pool: to count it for each of them is a relaxation, too.
            memory_bytes = problem.memory_domains[problem.domain_of[indices[0]]].memory_bytes
            classes.append(_Class(tuple(indices), memory_bytes, memory_bytes))
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
