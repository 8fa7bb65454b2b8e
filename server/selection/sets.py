"""Sets of members to be considered: all of them, or those that a beam finds.

Runs in the process of the command line; pure. Labelled rows and what members cost flow in, sets
flow out.

Where there are few members, all sets are looked at. Else sets grow member by member, as in Caruana
et al., "Ensemble Selection from Libraries of Models" (ICML 2004), by two objectives as in Pochelu,
Petiton and Conche's multi-objective greedy selection of ensembles: quality, and the rows/s that the
members' cost allows at most. Of each size the sets that no other dominates live on, spread over the
front; so there is no need to choose what quality is worth. The beam is repeated on random bags of
the rows with bags of the members (bagged selection, section 2.3 of Caruana et al.), and what all of
them find is pooled: sets that owe their place to a few rows meet better ones there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from allocator.search.exact import Clock
from server.calibration.metrics import Floats, Rows
from server.selection.fronts import nondominated, spread
from server.selection.labelled import LabelledRows, Sets
from server.selection.options import SelectOptions

__all__ = ["find_sets"]

#: Of so many members all sets are looked at.
_FEW = 12

_WIDTH = 8
#: Sizes without a better set than before, after which a beam ends.
_PATIENCE = 4
_BAGS = 4

Bounds = Callable[[Sets], Floats]


def find_sets(
    rows: LabelledRows, bounds: Bounds, options: SelectOptions, clock: Clock
) -> tuple[Sets, Floats]:
    """Return sets to be considered, and their qualities as gains.

    `bounds` gives the rows/s that sets can have at most.
    """
    members, most = len(rows.members), min(options.most_members, len(rows.members))
    singles = np.eye(members, dtype=np.bool_)
    if members <= _FEW:
        sets = _all_sets(members, most)
    else:
        # The best k are there as well: they are cheap to rate, and what all else is compared to.
        order = np.argsort(-rows.gains(singles), kind="stable")
        top = np.cumsum(singles[order], axis=0, dtype=np.int64) > 0
        beams = _pooled_beams(rows, bounds, most, options.seed, clock)
        sets = np.unique(np.concatenate([top[:most], *beams]), axis=0)
    return sets, rows.gains(sets)


def _all_sets(members: int, most: int) -> Sets:
    """All sets of at most so many members, by their number in binary."""
    numbers = np.arange(1, 1 << members)
    sets = (numbers[:, np.newaxis] >> np.arange(members)) & 1 == 1
    return np.asarray(sets[sets.sum(axis=1) <= most])


def _pooled_beams(
    rows: LabelledRows, bounds: Bounds, most: int, seed: int, clock: Clock
) -> Iterator[Sets]:
    """Yield the sets that beams find on all rows, and on random bags."""
    members, random = len(rows.members), np.random.default_rng(seed)
    yield _beam(rows, bounds, np.arange(members), most, clock)
    for _ in range(_BAGS):
        if clock.is_over():
            break
        bag = np.sort(random.choice(members, max(1, round(members / 2)), replace=False))
        some = np.sort(random.choice(len(rows.y), max(1, len(rows.y) // 2), replace=False))
        yield _beam(rows.part(some), bounds, bag, most, clock)


def _beam(
    rows: LabelledRows,
    bounds: Bounds,
    members: Rows,
    most: int,
    clock: Clock,
) -> Sets:
    """Return the sets of some members that a beam went through."""
    sets = np.zeros((len(members), len(rows.members)), np.bool_)
    sets[np.arange(len(members)), members] = True
    gains, kept, best, waited = rows.gains(sets), [sets], -np.inf, 0
    for size in range(1, min(most, len(members)) + 1):
        front = nondominated(np.stack([gains, bounds(sets)], axis=1))
        chosen = front[spread(len(front), _WIDTH)]
        best, waited = (gains.max(), 0) if gains.max() > best else (best, waited + 1)
        sets = sets[chosen]
        kept.append(sets)
        if size == min(most, len(members)) or waited > _PATIENCE or clock.is_over():
            break
        sets, gains = _grow(rows, sets, members, size)
    return np.concatenate(kept)


def _grow(rows: LabelledRows, sets: Sets, members: Rows, size: int) -> tuple[Sets, Floats]:
    """Add each further member to each set; return the different results with their qualities."""
    grown, gains = [], []
    for one in sets:
        new = members[~one[members]]
        after = np.repeat(one[np.newaxis], len(new), axis=0)
        after[np.arange(len(new)), new] = True
        grown.append(after)
        gains.append(rows.gains_grown(rows.predictions[one].sum(axis=0), size)[new])
    found, first = np.unique(np.concatenate(grown), axis=0, return_index=True)
    return found, np.concatenate(gains)[first]
