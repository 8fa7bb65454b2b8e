"""Confidence thresholds of a cascade: as many member-rows saved as a bounded loss allows.

Runs in the process of the command line; pure. The answers after each stage flow in, thresholds flow
out. Source of cascades by confidence: Wang et al., "Wisdom of Committees: An Overlooked Approach To
Faster and More Accurate Models" (ICLR 2022).

A row is *lost* if it exits with a wrong class though the whole ensemble has it right. (Rows that
the cascade has right and the ensemble wrong don't make up for that.) After a stage,
only these thresholds matter: the lowest that loses no row, the lowest that loses one, and so on;
since of two thresholds that lose as many, the lower one lets more rows exit, and earlier. So all
ways to spread the lost rows over the stages are tried, which is exact as long as there are fewer
than `_MAX_STATES`; else those that save most are followed.

Safety margin: thresholds fit the n rows best that they were chosen on. One that is just above the
surest row that it must not lose loses a new row with a probability of 1 / (n + 1). So one row per
threshold is added to the b that are lost, as in conformal risk control (Angelopoulos et al., ICLR
2024), and one standard error of b: ``b + sqrt(b) + thresholds <= max_loss (n + 1)``. Where n is so
small that this allows no b at all, none is lost, and the doubt that a threshold lets pass,
1 - threshold, is multiplied by ``max_loss (n + 1) / thresholds``, on the assumption that the
probability to lose a row shrinks at least in proportion to the doubt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from server.calibration.metrics import Array, ClassIndices

__all__ = ["CascadeOutcome", "StageAnswers", "allowed_losses", "choose_thresholds", "run_cascade"]

_MAX_STATES = 500
_MAX_DIGITS = 9
_DIGITS = 5

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StageAnswers:
    """What is answered after each stage, and the right classes y [rows].

    `sizes` are the members that each stage adds; `answers` those of the rule over all members asked
    so far, [stages, rows, classes].
    """

    sizes: tuple[int, ...]
    answers: Array
    y: ClassIndices

    @cached_property
    def confidence(self) -> Array:
        """The best class's value after each stage, [stages, rows]; in the server's own type."""
        return np.asarray(self.answers.max(axis=2))

    @cached_property
    def right(self) -> Flags:
        """Whether the best class is the right one after each stage, [stages, rows]."""
        return np.asarray(self.answers.argmax(axis=2) == self.y)


@dataclass(frozen=True)
class CascadeOutcome:
    """What a cascade does to rows.

    `stage` is that after which each row exits, from 0, [rows]; the answers are [rows, classes].
    `member_rows_per_row` members predict a row, on average, which saves the share `saved`.
    """

    stage: npt.NDArray[np.int64]
    answers: Array
    member_rows_per_row: float
    saved: float


def run_cascade(stages: StageAnswers, thresholds: Sequence[float]) -> CascadeOutcome:
    """Let rows exit as the server does: where the confidence is at least the threshold."""
    rows = len(stages.y)
    stage = np.full(rows, len(stages.sizes) - 1)
    for number in reversed(range(len(thresholds))):
        stage[stages.confidence[number] >= thresholds[number]] = number
    predicted = float(np.cumsum(stages.sizes)[stage].mean())
    saved = 1 - predicted / sum(stages.sizes)
    return CascadeOutcome(stage, stages.answers[stage, np.arange(rows)], predicted, saved)


def allowed_losses(rows: int, max_loss: float, thresholds: int) -> tuple[int, float]:
    """How many rows may be lost, and the factor of the doubt, below 1 where rows are few."""
    allowed = max_loss * (rows + 1)
    if allowed < thresholds:
        return 0, allowed / thresholds
    # b + sqrt(b) = limit has the solution sqrt(b) = (sqrt(1 + 4 limit) - 1) / 2.
    root = ((1 + 4 * (allowed - thresholds)) ** 0.5 - 1) / 2
    return int(root**2 + 1e-9), 1.0


def choose_thresholds(stages: StageAnswers, max_loss: float) -> tuple[float, ...] | None:
    """Return the thresholds that save most member-rows at no more than a loss in accuracy.

    The loss is a share, in comparison to the whole ensemble.

    Returns:
        One after each stage but the last; None if the loss can't be avoided, because a stage is
        absolutely certain (1.0) of more wrong classes than that.
    """
    rows = len(stages.y)
    allowed, factor = allowed_losses(rows, max_loss, len(stages.sizes) - 1)
    states = [_State((), 0, 0, np.ones(rows, np.bool_))]
    for stage in range(len(stages.sizes) - 1):
        found = [
            (saved, lost, threshold, state)
            for state in states
            for threshold, saved, lost in _candidates(stages, stage, state, allowed)
        ]
        found.sort(key=lambda one: (-one[0], one[1]))
        confidence = stages.confidence[stage]
        states = [
            _State(
                (*state.thresholds, threshold), saved, lost, state.stays & (confidence < threshold)
            )
            for saved, lost, threshold, state in found[:_MAX_STATES]
        ]
    if not states:
        return None
    best = max(states, key=lambda state: (state.saved, -state.lost)).thresholds
    return best if factor == 1 else tuple(round(1 - (1 - one) * factor, _DIGITS) for one in best)


@dataclass(frozen=True)
class _State:
    """Thresholds of the first stages: member-rows saved, rows lost, and which rows stay."""

    thresholds: tuple[float, ...]
    saved: int
    lost: int
    stays: Flags


def _candidates(
    stages: StageAnswers, stage: int, state: _State, allowed: int
) -> Iterator[tuple[float, int, int]]:
    """Yield a stage's thresholds that matter: each with the rows saved and lost so far."""
    rows, members_saved = np.flatnonzero(state.stays), sum(stages.sizes[stage + 1 :])
    confidence = stages.confidence[stage][rows]
    lost = stages.right[-1][rows] & ~stages.right[stage][rows]
    ascending = np.sort(confidence)
    harmful = np.sort(confidence[lost])[::-1]
    for more in range(min(allowed - state.lost, len(harmful)) + 1):
        threshold = _above(harmful[more] if more < len(harmful) else 0.0, ascending)
        if threshold is None:
            continue
        leaving = len(ascending) - int(np.searchsorted(ascending, ascending.dtype.type(threshold)))
        exact = int((harmful >= threshold).sum())
        if exact == more:  # rows of equal confidence are lost together
            yield threshold, state.saved + leaving * members_saved, state.lost + exact


def _above(bound: float, ascending: Array) -> float | None:
    """The threshold above a confidence, None if there is none up to 1."""
    higher = ascending[np.searchsorted(ascending, bound, side="right") :]
    if not len(higher):
        return 1.0 if bound < 1 else None
    return _between(float(bound), min(float(higher[0]), 1.0))


def _between(low: float, high: float) -> float:
    """The shortest decimal in the upper half of (low, high]."""
    for digits in range(2, _MAX_DIGITS):
        short = float(np.floor(high * 10**digits) / 10**digits)
        if short >= (low + high) / 2 and np.float32(low) < np.float32(short) <= np.float32(high):
            return short
    return high
