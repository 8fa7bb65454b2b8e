"""Which models a library keeps: the good ones, and among them those that differ.

Pure. The trials' qualities and predictions flow in, the numbers of those to keep flow out, with
the reason for each that goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Choice", "Grown", "KeepOptions", "choose", "disagreement"]


@dataclass(frozen=True)
class Grown:
    """A trained model.

    Attributes:
        number: of its trial.
        quality: its metric.
        nbytes: of its files.
        predictions: of validation rows: whole numbers are classes, others numbers, [rows, ...];
            None if there are no such rows.
    """

    number: int
    quality: float
    nbytes: int
    predictions: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class KeepOptions:
    """What a library keeps.

    Attributes:
        margin: how much worse than the best a model's metric may be, in the metric's own unit.
        most: number of models.
        max_bytes: of their files together; None for no limit.
        minimize: whether a lower metric is better.
    """

    margin: float
    most: int
    max_bytes: int | None = None
    minimize: bool = False


@dataclass(frozen=True)
class Choice:
    """What is kept, best quality first, and by number why others are not."""

    kept: tuple[int, ...]
    dropped: Mapping[int, str]


def choose(models: Sequence[Grown], options: KeepOptions) -> Choice:
    """Choose the models to keep.

    Candidates are those within the margin of the best. The best is kept; then, one at a time, the
    candidate whose least disagreement with those kept is the greatest (Gonzalez, "Clustering to
    minimize the maximum intercluster distance", 1985: the least disagreement among the chosen is
    at least half of what is possible), of equal ones the better. One that agrees with a kept model
    on every row is never kept. Without predictions, better ones come first. All models have
    predictions of the same rows, or none has.
    """
    sign = -1.0 if options.minimize else 1.0
    order = sorted(models, key=lambda one: (-sign * one.quality, one.number))
    if not order:
        return Choice((), {})
    best = order[0]
    left = [one for one in order if sign * (best.quality - one.quality) <= options.margin]
    dropped = {one.number: "margin" for one in order[len(left) :]}
    distances = dict.fromkeys((one.number for one in left), np.inf)
    kept: dict[int, Grown] = {}
    free = np.inf if options.max_bytes is None else options.max_bytes
    while left:
        # `max` takes the first of equals, which is the best.
        chosen = max(left, key=lambda one: distances[one.number])
        left.remove(chosen)
        reason = _refusal(chosen, len(kept), distances[chosen.number], options.most, free)
        if reason:
            dropped[chosen.number] = reason
            continue
        kept[chosen.number] = chosen
        free -= chosen.nbytes
        for one in left:
            distances[one.number] = min(distances[one.number], disagreement(one, chosen))
    return Choice(tuple(one.number for one in order if one.number in kept), dropped)


def _refusal(model: Grown, kept: int, distance: float, most: int, free: float) -> str:
    """Why the next model is not kept, empty if it is."""
    if distance == 0:
        return "the same answers"
    if kept >= most:
        return "number"
    return "disk" if model.nbytes > free else ""


def disagreement(one: Grown, other: Grown) -> float:
    """Return how different two models are, infinite if they have no predictions.

    For classes, the share of rows on which they differ; for numbers, the root mean square
    difference.
    """
    if one.predictions is None or other.predictions is None:
        return np.inf
    if np.issubdtype(one.predictions.dtype, np.integer):
        return float((one.predictions != other.predictions).mean())
    difference = one.predictions.astype(np.float64) - other.predictions
    return float(np.sqrt(np.square(difference).mean()))
