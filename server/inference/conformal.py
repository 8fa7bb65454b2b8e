"""Conformal prediction: sets of classes and intervals that hold the truth as often as was asked.

Used in the front-end, and by `ensembled calibrate`, which fits it; pure. What an ensemble answers
flows in, with the scores of calibration rows; sets of classes, or the bounds of intervals, flow
out. A score says how badly a possible truth fits an answer; with the k-th smallest of n calibration
rows' scores as the threshold, k = ceil((n + 1) coverage), a new row's truth is within it with a
probability of at least the coverage, and at most 1 / (n + 1) more if no scores are equal, whatever
the model and the data are, if only the rows are exchangeable.

========== ============================================== =========================================
lac        ``1 - p_y``                                    smallest sets on average
aps        mass of the classes before y, and u of its own sets grow with the row's doubt
raps       aps, and penalty (rank_y - free_rank)+         aps without its long tails
absolute   ``|y - f|``                                    intervals of one width
normalised ``|y - f| / s``, s the predicted deviation     intervals as wide as the row's doubt
cqr        ``max(q_low - y, y - q_high)``                 predicted quantiles, moved
========== ============================================== =========================================

u is uniform on [0, 1) in the sources. Here it is a hash of the row's probabilities, so that an
answer does not change when it is asked for again.

Sources: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005); Sadinle, Lei
and Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels" (JASA 114, 2019)
for lac; Romano, Sesia and Candès, "Classification with Valid and Adaptive Coverage" (NeurIPS 2020)
for aps; Angelopoulos et al., "Uncertainty Sets for Image Classifiers using Conformal Prediction"
(ICLR 2021) for raps; Lei et al., "Distribution-Free Predictive Inference for Regression" (JASA 113,
2018) for absolute and normalised; Romano, Patterson and Candès, "Conformalized Quantile Regression"
(NeurIPS 2019) for cqr.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = [
    "SET_METHODS",
    "ConformalSpec",
    "IntervalMethod",
    "SetMethod",
    "TooFewRows",
    "class_scores",
    "interval",
    "interval_scores",
    "set_scores",
    "threshold_rank",
    "thresholds",
]

SetMethod = Literal["lac", "aps", "raps"]
IntervalMethod = Literal["absolute", "normalised", "cqr"]
SET_METHODS: tuple[SetMethod, ...] = get_args(SetMethod)

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_ROUNDING = 1e-9
_NARROWEST = 1e-150


class TooFewRows(ValueError):
    """A coverage needs more calibration rows than there were; the text is one line."""


class ConformalSpec(msgspec.Struct, frozen=True):
    """What was fitted of an ensemble: everything that any coverage needs.

    Attributes:
        rows: how many calibration rows there were.
        ranks: of the scores that are kept, 1 for the smallest; ascending.
        scores: these scores, for each element of the output (for classes: once), ascending.
        penalty, free_rank: of raps.
    """

    method: SetMethod | IntervalMethod
    rows: int
    ranks: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    penalty: float = 0.0
    free_rank: int = 0

    @property
    def gives_sets(self) -> bool:
        """Whether it is for classes."""
        return self.method in SET_METHODS


def threshold_rank(coverage: float, rows: int) -> int:
    """Return which of the ascending scores of so many rows is the threshold, from 1.

    Raises:
        TooFewRows: if it would be one more than there are.
    """
    rank = max(1, math.ceil((rows + 1) * coverage - _ROUNDING))
    if rank > rows:
        needed = math.ceil(coverage / (1 - coverage) - _ROUNDING)
        raise TooFewRows(
            f"a coverage of {coverage:g} needs {needed} calibration rows, there were {rows}: with "
            f"these every answer would be infinitely wide; the most they give is "
            f"{rows / (rows + 1):.4g}"
        )
    return rank


def thresholds(spec: ConformalSpec, coverage: float) -> Floats:
    """Return the threshold of each element of the output, [elements].

    Where a score of this rank was not kept, it is the next larger one.

    Raises:
        TooFewRows: as `threshold_rank`.
    """
    place = int(np.searchsorted(spec.ranks, threshold_rank(coverage, spec.rows)))
    return np.array([scores[place] for scores in spec.scores])


def set_scores(spec: ConformalSpec, probabilities: Array) -> Floats:
    """Return `class_scores` by the method that was fitted."""
    return class_scores(probabilities, spec.method, penalty=spec.penalty, free_rank=spec.free_rank)


def class_scores(
    probabilities: Array, method: str, *, penalty: float = 0.0, free_rank: int = 0
) -> Floats:
    """Return the score that each class would have as the truth, from [rows, classes]: the same.

    Classes of equal probability rank in their order.
    """
    p = probabilities.astype(np.float64)
    if method == "lac":
        return np.asarray(1 - p)
    order = np.argsort(-p, axis=1, kind="stable")
    falling = np.take_along_axis(p, order, axis=1)
    scores = np.cumsum(falling, axis=1) - falling + _uniform(probabilities) * falling
    if method == "raps":
        scores += penalty * np.maximum(np.arange(1, p.shape[1] + 1) - free_rank, 0)
    found = np.empty_like(scores)
    np.put_along_axis(found, order, scores, axis=1)
    return found


def _uniform(probabilities: Array) -> Floats:
    """Return a hash of each row as a number in [0, 1), [rows, 1]."""
    bits = np.ascontiguousarray(probabilities, np.float32).view(np.uint32).astype(np.uint64)
    # An odd factor per column, then the finalizer of splitmix64 (Steele et al., OOPSLA 2014).
    columns = np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64)
    mixed = (bits * (columns * np.uint64(0x9E3779B97F4A7C15))).sum(axis=1, dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)) / float(1 << 53))[:, np.newaxis]


def interval_scores(y: Array, bounds: Array, scale: Array | None = None) -> Floats:
    """Return how far truths y [rows, ...] lie outside bounds [rows, ..., 2]; negative inside.

    The bounds of `absolute` and `normalised` are both the prediction; `scale` [rows, ...] divides.
    """
    wide = bounds.astype(np.float64)
    outside = np.maximum(wide[..., 0] - y, y - wide[..., 1])
    return np.asarray(outside if scale is None else outside / np.maximum(scale, _NARROWEST))


def interval(bounds: Array, threshold: Array, scale: Array | None = None) -> Floats:
    """Return the interval of all truths whose score is within a threshold: [rows, ..., 2].

    Args:
        bounds: see `interval_scores`.
        threshold: broadcast against [rows, ...]; a negative one narrows, at most to the middle.
        scale: see `interval_scores`.
    """
    wide = bounds.astype(np.float64)
    margin = threshold if scale is None else threshold * np.maximum(scale, _NARROWEST)
    margin = np.maximum(margin, (wide[..., 0] - wide[..., 1]) / 2)
    return np.stack([wide[..., 0] - margin, wide[..., 1] + margin], axis=-1)
