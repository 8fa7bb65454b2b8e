"""The built-in rules: means and extremes of each output, votes and ranks over classes, the medoid.

Run in the combiner; pure. Predictions [members, rows, *outputs] of the members that an answer rests
on flow in, float32 or float64 and not to be modified, with their weights [members]; the answer is
written to `out`, [rows, *outputs]. Votes and ranks take the outputs along the last axis as their
candidates, so there must be one; they only count and compare, so these need not be probabilities.
Sums use `einsum`: it is the fastest over many rows, and starts no threads, as BLAS does for larger
arrays.

Sources: Dietterich, "Ensemble Methods in Machine Learning" (2000), for averaging and voting;
Kittler et al., "On Combining Classifiers" (IEEE PAMI 1998), for mean, median, max, min and product;
Kuncheva, "Combining Pattern Classifiers" (2004), for weighted votes; Ho, Hull and Srihari,
"Decision Combination in Multiple Classifier Systems" (IEEE PAMI 1994), for ranks, there called the
Borda count; Jose and Winkler, "Simple robust averages of forecasts" (IJF 24, 2008), for the trimmed
mean; Pochelu, Petiton and Conche, "Distributed Ensembles of Reinforcement Learning Agents for
Electricity Control" (2022, arXiv 2208.14338), for the medoid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "DEFAULT_TRIM",
    "geometric_mean",
    "maximum",
    "mean",
    "median",
    "medoid",
    "minimum",
    "rank_average",
    "trimmed",
    "trimmed_mean",
    "vote",
    "weighted_mean",
    "weighted_vote",
]

Array = npt.NDArray[Any]

#: The fraction of the members that `trimmed_mean` drops at each end.
DEFAULT_TRIM = 0.2

# Sums of weights in another order differ by as much, although they are equal on paper.
_EQUAL_VOTES = 1e-6
# Distances that differ by less, relative to the smallest, are equal but for rounding.
_EQUAL_DISTANCES = 1e-9


def mean(predictions: Array, _weights: Array, out: Array) -> None:
    """``1/M sum_m p_m``."""
    np.einsum("m...->...", predictions, out=out)
    np.divide(out, len(predictions), out=out)


def weighted_mean(predictions: Array, weights: Array, out: Array) -> None:
    """``sum_m w_m p_m / sum_m w_m`` over the members that the answer rests on."""
    shares = (weights / weights.sum()).astype(predictions.dtype)
    np.einsum("m,m...->...", shares, predictions, out=out)


def median(predictions: Array, _weights: Array, out: Array) -> None:
    """The median of each output (the mean of the middle two for an even number of members)."""
    count = len(predictions)
    _mean_of_sorted(predictions, (count - 1) // 2, out)


def trimmed_mean(
    predictions: Array, _weights: Array, out: Array, trim: float = DEFAULT_TRIM
) -> None:
    """The mean of each output without its ``floor(trim M)`` smallest and as many largest values.

    With so few members that nothing is cut it is the mean; with two or one it always is.
    """
    _mean_of_sorted(predictions, trimmed(len(predictions), trim), out)


def trimmed(members: int, trim: float) -> int:
    """Return how many of these members are cut at each end."""
    # Without the sum, 29 of 100 would be 28: 0.29 * 100 is a little less.
    return min(int(trim * members + 1e-9), (members - 1) // 2)


def _mean_of_sorted(predictions: Array, cut: int, out: Array) -> None:
    """Write the mean of each output without its `cut` smallest and its `cut` largest values."""
    if cut:
        predictions = np.sort(predictions, axis=0)[cut:-cut]
    np.einsum("m...->...", predictions, out=out)
    np.divide(out, len(predictions), out=out)


def maximum(predictions: Array, _weights: Array, out: Array) -> None:
    """The largest value of each output."""
    np.max(predictions, axis=0, out=out)


def minimum(predictions: Array, _weights: Array, out: Array) -> None:
    """The smallest value of each output."""
    np.min(predictions, axis=0, out=out)


def geometric_mean(predictions: Array, _weights: Array, out: Array) -> None:
    """``exp(1/M sum_m log p_m)``, normalised over the last axis; for probabilities.

    A class that a member rules out (p = 0) is ruled out. If every class is, all are equal.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(predictions).mean(axis=0)
        peak = logs.max(axis=-1, keepdims=True)
        np.exp(np.where(np.isfinite(peak), logs - peak, 0.0), out=out)
    np.divide(out, out.sum(axis=-1, keepdims=True), out=out)


def vote(predictions: Array, _weights: Array, out: Array) -> None:
    """The share of the members that vote for each output.

    A member votes for its largest output, for the first of them if several are. The output with
    the most votes wins; among equals the one with the largest sum over all members, then the
    first. The share of a winner among equals is raised by the smallest step of its type, so that
    the largest share is always the winner's alone.
    """
    _vote(predictions, np.ones(len(predictions)), out)


def weighted_vote(predictions: Array, weights: Array, out: Array) -> None:
    """``sum_m w_m [m votes for c] / sum_m w_m``; otherwise as `vote`, with weighted sums.

    Shares that differ by less than a millionth count as equal.
    """
    _vote(predictions, weights, out)


def _vote(predictions: Array, weights: Array, out: Array) -> None:
    ballots = predictions.argmax(axis=-1)
    members, candidates = len(ballots), predictions.shape[-1]
    ballots = ballots.reshape(members, -1)
    polls = ballots.shape[1]
    shares = np.bincount(
        (ballots + np.arange(polls) * candidates).ravel(),
        np.repeat(weights / weights.sum(), polls),
        polls * candidates,
    ).reshape(polls, candidates)
    out[...] = shares.reshape(out.shape)
    leading = shares >= shares.max(axis=-1, keepdims=True) * (1 - _EQUAL_VOTES)
    tied = np.flatnonzero(leading.sum(axis=-1) > 1)
    if len(tied):
        flat = predictions.reshape(members, polls, candidates)[:, tied]
        _break_ties(flat, weights, leading[tied], tied, out)


def _break_ties(flat: Array, weights: Array, leading: Array, tied: Array, out: Array) -> None:
    """Raise the share of each tied poll's winner above all others.

    Args:
        flat: predictions of the tied polls, [members, tied, candidates].
        weights: [members].
        leading: which candidates have the most votes, [tied, candidates].
        tied: numbers of these polls.
        out: the shares of all polls, [..., candidates].
    """
    sums = np.einsum("m,m...->...", weights, flat.astype(np.float64))
    winners = np.where(leading, sums, -np.inf).argmax(axis=-1)
    # With infinite sums, a leader with -inf must not lose to a candidate that does not lead.
    lost = ~np.take_along_axis(leading, winners[:, np.newaxis], axis=-1)[:, 0]
    winners = np.where(lost, leading.argmax(axis=-1), winners)
    polls = np.unravel_index(tied, out.shape[:-1])
    out[(*polls, winners)] = np.nextafter(out[polls].max(axis=-1), out.dtype.type(np.inf))


def rank_average(predictions: Array, _weights: Array, out: Array) -> None:
    """``1/M sum_m (r_mc - 1) / (C - 1)`` with the rank r_mc of output c in member m.

    The smallest of C outputs has rank 1, the largest C, equal ones the average of their ranks. An
    output that all members rank first is 1, and the average of a row is 1/2. A lone output is 1.
    """
    candidates = predictions.shape[-1]
    if candidates == 1:
        out[...] = 1
        return
    out[...] = _count_smaller(predictions).mean(axis=0) / (candidates - 1)


def _count_smaller(predictions: Array) -> Array:
    """Count the outputs smaller than each along the last axis; equal ones count half."""
    order = np.argsort(predictions, axis=-1)
    ascending = np.take_along_axis(predictions, order, axis=-1)
    places = np.arange(predictions.shape[-1], dtype=np.float64)
    rises = ascending[..., 1:] != ascending[..., :-1]
    edge = np.ones((*rises.shape[:-1], 1), np.bool_)
    starts = np.concatenate([edge, rises], axis=-1)
    ends = np.concatenate([rises, edge], axis=-1)
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=-1)
    last = np.where(ends, places, len(places))[..., ::-1]
    last = np.minimum.accumulate(last, axis=-1)[..., ::-1]
    smaller = np.empty(predictions.shape)
    np.put_along_axis(smaller, order, (first + last) / 2, axis=-1)
    return smaller


def medoid(predictions: Array, weights: Array, out: Array) -> None:
    """``p_k`` with ``k = argmin_m ||p_m - c||`` and ``c = sum_m w_m p_m / sum_m w_m``.

    For continuous actions: the mean of "steer left" and "steer right" is the obstacle between them,
    the medoid is what a member predicted. Distances are Euclidean over all outputs of a row. Of
    equally near members the first in the ensemble's order wins, as of two with equal weights.
    """
    members, rows = predictions.shape[:2]
    values = predictions.reshape(members, rows, -1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # the first wins if values are infinite
        centroid = np.einsum("m,mrk->rk", weights / weights.sum(), values)
        distance = np.linalg.norm(values - centroid, axis=-1)
        nearest = (distance <= distance.min(axis=0) * (1 + _EQUAL_DISTANCES)).argmax(axis=0)
    out[...] = predictions[nearest, np.arange(rows)]
