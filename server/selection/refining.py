"""Weights and cascades for sets of members, rated on rows that they were not fitted on.

Runs in the process of the command line; pure. Labelled rows and promising sets flow in, candidates
with their cross-fitted quality flow out.

Weights are those with the least log loss, for classes, and those of Caruana et al.'s selection with
replacement, by the measure itself. A cascade asks one promising set first, and adds the members of
a better one for the rows that the first is not confident of (Wang et al., "Wisdom of Committees",
ICLR 2022); its threshold is fitted by `server.calibration.cascade_thresholds`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from allocator.search.exact import Clock
from server.calibration.cascade_thresholds import Flags, choose_thresholds, run_cascade
from server.calibration.metrics import Floats, Rows
from server.calibration.weights import fit_weights, select_members
from server.selection.baselines import equal, weighted
from server.selection.fronts import nondominated, spread
from server.selection.guard import CrossFit, Fit, Rated
from server.selection.labelled import LabelledRows, Sets
from server.selection.options import SelectOptions
from server.selection.points import Candidate, StagedExit

__all__ = ["refine"]

#: So many sets get weights, and so many make cascades: the latter goes by pairs.
_MOST_WEIGHTED = 24
_MOST_STAGES = 12

#: A member with a smaller share is left out.
_LEAST_WEIGHT = 0.01
#: What a cascade's threshold may lose of the accuracy of all its members.
_LOSSES = (0.0, 0.002, 0.005, 0.01, 0.02)
#: How much faster than all members the first stage should be at least.
_FASTER = 1.3

_ROUNDS = 50


def refine(
    cross_fit: CrossFit,
    sets: Sets,
    *,
    gains: Floats,
    bounds: Floats,
    options: SelectOptions,
    clock: Clock,
) -> list[Rated]:
    """Return what weights and cascades make of sets, as far as the time allows.

    `gains` are the qualities of the sets with equal weights, `bounds` their rows/s at most, [sets].
    """
    front = nondominated(np.stack([gains, bounds], axis=1))
    found = []
    for fit in _fits(sets[front], bounds[front], cross_fit.rows.of_classes, options):
        if clock.is_over():
            break
        if (rated := cross_fit.rate(fit)) is not None:
            found.append(rated)
    return found


def _fits(front: Sets, bounds: Floats, of_classes: bool, options: SelectOptions) -> Iterator[Fit]:
    """Yield what there is to fit, to sets of descending quality."""
    if options.weights:
        rounds = min(_ROUNDS, options.most_members)
        everything = np.ones(front.shape[1], np.bool_)
        yield partial(_selected, everything, rounds)
        for one in front[spread(len(front), _MOST_WEIGHTED)]:
            if one.sum() > 1:
                yield partial(_selected, one, rounds)
                if of_classes:
                    yield partial(_least_loss, one)
    if options.cascades and of_classes:
        stages = spread(len(front), _MOST_STAGES)
        yield from _cascades(front[stages], bounds[stages], options.most_members)


def _selected(chosen: Flags, rounds: int, rows: LabelledRows) -> Candidate:
    """Weights of some members [library's members] by selection with replacement."""
    used = np.flatnonzero(chosen)
    counts = select_members(rows.predictions[used], loss=rows.losses, rounds=rounds)
    return _weighted(rows, used, counts.astype(np.float64))


def _least_loss(chosen: Flags, rows: LabelledRows) -> Candidate:
    """Weights of some members with the least log loss."""
    used = np.flatnonzero(chosen)
    found = fit_weights(rows.predictions[used][:, np.arange(len(rows.y)), rows.y])
    return _weighted(rows, used, np.where(found < _LEAST_WEIGHT, 0.0, found))


def _weighted(rows: LabelledRows, used: Rows, own: Floats) -> Candidate:
    weights = np.zeros(len(rows.members))
    weights[used] = own
    return weighted(rows, weights)


def _cascades(sets: Sets, bounds: Floats, most: int) -> Iterator[Fit]:
    """Yield cascades of two stages: one of the sets, and what a better one has beside it."""
    for better in range(len(sets)):
        for first in range(better + 1, len(sets)):
            stages = sets[first], sets[better] & ~sets[first]
            fits = stages[1].any() and (sets[first] | sets[better]).sum() <= most
            if fits and bounds[first] >= _FASTER * bounds[better]:
                yield from (partial(_cascade, stages, max_loss) for max_loss in _LOSSES)


def _cascade(stages: tuple[Flags, Flags], max_loss: float, rows: LabelledRows) -> Candidate | None:
    whole = equal(rows, stages[0] | stages[1])
    first, second = (equal(rows, stage).members for stage in stages)
    answers = rows.stage_answers(whole, (first, second))
    confidence = choose_thresholds(answers, max_loss)
    if confidence is None:
        return None
    later = float((run_cascade(answers, confidence).stage > 0).mean())
    if not 0 < later < 1:
        return None
    return replace(whole, cascade=StagedExit((first, second), confidence, (1.0, later)))
