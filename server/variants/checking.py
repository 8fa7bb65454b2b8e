"""How far a copy at lower precision moves from its member: agreement, differences, quality.

Runs in the process of the command line; pure. Predictions of both for the same rows, and what is
true of these, flow in, figures flow out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from server.calibration.metrics import Array
from server.members.outputs import MemberOutput
from server.rollout.agreement import Values, compare
from server.rollout.judge import share_interval

__all__ = ["Interval", "Movement", "Quality", "measure_movement", "measure_quality"]

#: Of the normal distribution: 95% of it are within so many standard deviations.
_DEVIATIONS = 1.96


@dataclass(frozen=True)
class Interval:
    """A share of some rows, and the interval in which it is expected with 95% for all rows."""

    share: float
    low: float
    high: float

    @classmethod
    def of(cls, share: float, rows: int) -> Interval:
        """Return Wilson's interval for a share of rows."""
        return cls(share, *share_interval(share, rows, deviations=_DEVIATIONS))


@dataclass(frozen=True)
class Movement:
    """How far predictions are from others for the same rows.

    Attributes:
        disagreement: the share of rows that are answered differently.
        mean_difference: of two numbers, of all.
        max_difference: the largest.
    """

    disagreement: Interval
    mean_difference: float
    max_difference: float


@dataclass(frozen=True)
class Quality:
    """What is better of a copy or its member: accuracy with its interval, or RMSE."""

    measure: Literal["accuracy", "rmse"]
    value: float
    interval: Interval | None = None


def measure_movement(
    output: MemberOutput, before: Array, after: Array, tolerance: float
) -> Movement:
    """Compare the predictions of a copy with those of its member, [rows, ...] each.

    Classes are answered differently if the best one is another, numbers if they differ by more than
    `tolerance * max(1, |number|)`.
    """
    axis = output.class_axis if output.gives_classes else None
    found = compare(Values(before, axis), Values(after, axis), tolerance)
    gaps = np.abs(before.astype(np.float64) - after.astype(np.float64))
    disagreement = Interval.of(found.disagreeing / found.rows, found.rows)
    return Movement(disagreement, float(gaps.mean()), float(gaps.max()))


def measure_quality(output: MemberOutput, predictions: Array, y: Array) -> Quality:
    """Return how good predictions [rows, ...] are: by classes y [rows], or numbers y [rows, n]."""
    if output.gives_classes:
        right = float((predictions.argmax(axis=-1) == y).mean())
        return Quality("accuracy", right, Interval.of(right, len(y)))
    gaps = predictions.reshape(y.shape).astype(np.float64) - y
    return Quality("rmse", float(np.sqrt((gaps**2).mean())))
