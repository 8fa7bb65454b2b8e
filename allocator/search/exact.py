"""The exact search: an allocation, and how far from the best possible it can be at most.

Pure, used in the process that plans an allocation. It is anytime: good allocations come from
`allocator.search.rebuild`, bounds from `allocator.search.relaxation`. Both are closed by
`allocator.search.master` where devices hold few members, so that there are few ways to pack them,
else by `allocator.search.branch` where the problem is small. It ends when bound and throughput
meet, when nothing has become better for long and the gap is small, or when the time is up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from allocator.problem import Cells, Problem
from allocator.search import branch
from allocator.search.master import Master
from allocator.search.packings import Packings, list_packings
from allocator.search.rebuild import Rebuilder
from allocator.search.relaxation import counting_bound, upper_bound
from allocator.search.throughput import ThroughputModel, solve_throughput

__all__ = ["Clock", "Effort", "SearchResult", "exact", "fewest_instances"]

#: Bound and throughput count as equal at this gap: the solvers' own tolerance.
_PROVEN = 1e-4
#: Problems with so few binary variables are proven at once, whatever gap would do, ...
_TINY = 150
#: ... and from so many on, branch and bound has no hope.
_LARGE = 400
_CYCLE = 60
_TOLERANCE = 0.03
#: What a bound may take: of the time that is left, and nodes where it counts whole copies.
_BOUND_SHARE = 0.25
_BOUND_NODES = 50
#: How many packings are tried at first, how many times as many next, and for which share of the
#: time that is left while they are not all.
_FEW_PACKINGS = 150
_MORE_PACKINGS = 4
_FEW_SHARE = 0.3
#: The share of the throughput that fewer instances may cost.
_ALMOST = 0.999


class Clock:
    """The time that a search has.

    Once it has cut anything short, it is `limited`: a repetition may differ.
    """

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s
        self.limited = False

    def left_s(self) -> float:
        """Seconds that are left, 0 at least."""
        return max(self._end - time.monotonic(), 0.0)

    @contextmanager
    def part_s(self, share: float) -> Iterator[float]:
        """Give away a share of the seconds that are left; to use them all is to be cut short."""
        part = Clock(self.left_s() * share)
        yield part.left_s()
        self.limited |= part.is_over()

    def is_over(self) -> bool:
        """Whether the time is up; asking means that there was more to do."""
        over = time.monotonic() >= self._end
        self.limited |= over
        return over


@dataclass(frozen=True)
class Effort:
    """When the exact search may end before its time is up.

    The bound is at most `gap` away, as a share of it, and `patience` tries found nothing better.
    """

    gap: float = _PROVEN
    patience: int = 120


@dataclass(frozen=True)
class SearchResult:
    """An allocation, its throughput and a throughput that no allocation exceeds, rows/s."""

    cells: Cells
    throughput: float
    bound: float

    @property
    def gap(self) -> float:
        """How far it may be from the best, as a share of the bound."""
        return max(0.0, 1 - self.throughput / self.bound) if self.bound > 0 else 0.0


def exact(
    problem: Problem, starts: Sequence[Cells], *, clock: Clock, effort: Effort, seed: int
) -> SearchResult:
    """Search for the allocation with the highest throughput."""
    rebuilder = Rebuilder(problem, seed)
    candidates = [*map(rebuilder.judge, starts), rebuilder.build()]
    best = max(candidates, key=lambda built: built.throughput)
    with clock.part_s(_BOUND_SHARE) as limit_s:
        bound = upper_bound(problem, limit_s, at_least=best.throughput)
    found = SearchResult(best.cells, best.throughput, max(bound, best.throughput))
    size = branch.binaries(problem)
    enough = _PROVEN if size <= _TINY else effort.gap
    packings = list_packings(problem)
    if packings is not None and bound < math.inf:
        found = _pack(packings, found, clock, enough)
    else:
        if size > _TINY:
            found = _improve(rebuilder, found, clock, effort)
            found = _count(problem, found, clock, effort)
        if size <= _LARGE and found.gap > enough:
            found = _branch(problem, found, clock)
    while found.gap > effort.gap and not clock.is_over():
        found = _improve(rebuilder, found, clock, Effort(effort.gap, patience=4 * _CYCLE))
    return found


def _improve(
    rebuilder: Rebuilder, found: SearchResult, clock: Clock, effort: Effort
) -> SearchResult:
    """Rebuild again and again.

    In cycles, allocations that are a little worse are accepted at first and ever less so later
    (threshold accepting, Dueck and Scheuer, Journal of Computational Physics 90, 1990).
    """
    built = best = rebuilder.judge(found.cells)
    tries = last = 0
    while tries - last < effort.patience and best.throughput < found.bound * (1 - _PROVEN):
        if clock.is_over():
            break
        warmth = 1 - 2 * (tries % _CYCLE) / _CYCLE
        if tries % _CYCLE == 0:
            built = best
        built = rebuilder.improve(built, _TOLERANCE * max(warmth, 0.0) ** 2)
        tries += 1
        if built.throughput > best.throughput * (1 + _PROVEN):
            last = tries
        if (built.throughput, built.score) > (best.throughput, best.score):
            best = built
    return SearchResult(best.cells, best.throughput, max(found.bound, best.throughput))


def _count(problem: Problem, found: SearchResult, clock: Clock, effort: Effort) -> SearchResult:
    """Lower the bound by counting copies in whole numbers."""
    if found.gap <= effort.gap or clock.is_over():
        return found
    with clock.part_s(_BOUND_SHARE) as limit_s:
        bound = counting_bound(problem, limit_s, known=found.bound, max_nodes=_BOUND_NODES)
    return SearchResult(found.cells, found.throughput, max(bound, found.throughput))


def _pack(packings: Packings, found: SearchResult, clock: Clock, gap: float) -> SearchResult:
    """Choose among packings: few at first, which is fast and leaves fewer of all of them.

    A better allocation also narrows what is asked for, so there may be more to find after it.
    """
    master = Master(packings)
    with clock.part_s(_BOUND_SHARE) as limit_s:
        bound = master.upper_bound(limit_s, low=found.throughput, high=found.bound)
    found = SearchResult(found.cells, found.throughput, bound)
    most = _FEW_PACKINGS
    while found.gap > gap and not clock.is_over():
        before, all_of_them = found.throughput, most >= master.size
        with clock.part_s(1.0 if all_of_them else _FEW_SHARE) as limit_s:
            result = master.fastest(
                limit_s, low=found.throughput, high=found.bound, most=most, gap=gap
            )
        found = _better(packings.problem, found, result)
        if all_of_them and found.throughput <= before:
            break
        most *= _MORE_PACKINGS
    return found


def _branch(problem: Problem, found: SearchResult, clock: Clock) -> SearchResult:
    if clock.is_over():
        return found
    result = branch.fastest(problem, found.cells, clock.left_s(), bound=found.bound)
    clock.limited |= not result.finished
    return _better(problem, found, result)


def _better(problem: Problem, found: SearchResult, result: branch.Branched) -> SearchResult:
    """Return the better of what there was and what a solver found, with the lower bound."""
    cells, throughput = found.cells, found.throughput
    if result.cells is not None:
        # The solver's tolerances are not the linear program's: what counts is the latter.
        after, shares = solve_throughput(problem, result.cells)
        if after > throughput:
            cells, throughput = np.where(shares > 0, result.cells, 0), after
    return SearchResult(cells, throughput, max(min(result.bound, found.bound), throughput))


def fewest_instances(
    problem: Problem, found: SearchResult, *, clock: Clock, tolerance: float = 0.0
) -> SearchResult:
    """Remove instances while 99.9% of the throughput, or what `tolerance` permits, remains.

    Those that do the least go first; where the problem is small, branch and bound proves the
    number to be the least. With a tolerance (the share of the throughput that is within the
    profiles' noise), it also chooses among those with as few instances by what does not depend on
    that noise.
    """
    least = min(_ALMOST, 1 - tolerance) * found.throughput
    cells = found.cells.copy()
    model = ThroughputModel(problem)
    model.put_all(cells)
    model.rows_per_s()
    shares = model.shares()
    order = sorted(map(tuple, np.argwhere(cells)), key=lambda at: shares[at])
    for device, member in order:
        if np.count_nonzero(cells[:, member]) == 1:
            continue
        if clock.is_over():
            break
        model.put(device, member, 0)
        if model.rows_per_s() >= least:
            cells[device, member] = 0
        else:
            model.put(device, member, int(cells[device, member]))
    minimum = max(len(problem.members), math.ceil(_fewest_by_work(problem, least)))
    if (tolerance or np.count_nonzero(cells) > minimum) and branch.binaries(problem) <= _TINY:
        result = branch.fewest(problem, cells, least, clock.left_s(), in_order=tolerance > 0)
        clock.limited |= not result.finished
        # The solver's tolerances are not the linear program's: what counts is the latter.
        if (
            result.cells is not None
            and (tolerance or np.count_nonzero(result.cells) < np.count_nonzero(cells))
            and solve_throughput(problem, result.cells)[0] >= least
        ):
            cells = result.cells
    throughput = solve_throughput(problem, cells)[0]
    return SearchResult(cells, throughput, max(found.bound, throughput))


def _fewest_by_work(problem: Problem, throughput: float) -> float:
    """Instances that each member needs at least for a throughput, summed."""
    devices = range(len(problem.devices))
    needed = 0.0
    for member, demand in enumerate(problem.demands):
        best = max(o.rows_per_s for d in devices for o in problem.options(d, member))
        needed += max(1.0, math.ceil(throughput * demand / best * (1 - _PROVEN)))
    return needed
