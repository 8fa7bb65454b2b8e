"""Which candidates are on the front of quality and cost: as few as possible are placed for it.

Runs in the process of the command line; pure. Candidates with qualities flow in, those that no
other dominates flow out, with their costs.

A candidate whose cost could at best (by a proven bound on its rows/s, and by what its smallest or
least hungry instances need) not beat one that is placed and no worse, is not placed. So the front
is that of all candidates, as far as the searches for allocations find the best ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from server.calibration.metrics import Floats
from server.selection.costs import Coster, cost_gains
from server.selection.fronts import is_dominated, nondominated
from server.selection.options import CostName
from server.selection.points import Candidate, Cost

__all__ = ["Placed", "Rated", "place"]


@dataclass(frozen=True)
class Rated:
    """A candidate, its quality (as a gain) where it was searched, and a bound on its rows/s."""

    candidate: Candidate
    gain: float
    bound_rows_per_s: float


@dataclass(frozen=True)
class Placed:
    """A candidate with its cost."""

    candidate: Candidate
    gain: float
    cost: Cost


def place(
    rated: Sequence[Rated],
    coster: Coster,
    names: Sequence[CostName],
    *,
    keep_going: Callable[[], bool],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Placed]:
    """Return the front, by descending quality.

    The candidates that look best by their bounds are placed first, evenly over the front, so that
    it has no hole when the time is up.
    """
    values = np.array([[one.gain, one.bound_rows_per_s] for one in rated])
    likely = nondominated(values)
    order = [*likely[_evenly(len(likely))], *np.lexsort((-values[:, 1], -values[:, 0]))]
    placed: list[Placed] = []
    reached = np.empty((0, 1 + len(names)))
    for done, index in enumerate(dict.fromkeys(order)):
        one = rated[index]
        if placed and not keep_going():
            break
        on_progress(done, len(rated))
        if _is_hopeless(one, coster, names, reached):
            continue
        if (cost := coster.cost(one.candidate)) is not None:
            placed.append(Placed(one.candidate, one.gain, cost))
            reached = np.vstack([reached, [one.gain, *cost_gains(cost, names)]])
    return [placed[i] for i in nondominated(reached)] if placed else []


def _is_hopeless(one: Rated, coster: Coster, names: Sequence[CostName], reached: Floats) -> bool:
    """Whether something that is placed dominates the best that a candidate could be."""

    def is_hopeless(bound: float) -> bool:
        least = coster.least(one.candidate, bound, names)
        return not bound or is_dominated(np.array([one.gain, *least]), reached)

    return is_hopeless(one.bound_rows_per_s) or is_hopeless(coster.bound(one.candidate))


def _evenly(count: int) -> list[int]:
    """The numbers up to a count, both ends first, then the middle, then the quarters ..."""
    order, step = [0, count - 1], count
    while step > 1:
        step = (step + 1) // 2
        order += range(0, count, step)
    return [one for one in dict.fromkeys(order) if 0 <= one < count]
