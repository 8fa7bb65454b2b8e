"""Rules by which members vote for outputs: votes, weighted votes, ranks.

Run in the combiner; see `workers.rules.averages` for what flows in and out. The candidates are the
outputs along the last axis, so there must be one. They count and compare only, so the outputs need
not be probabilities.

Sources: Dietterich, "Ensemble Methods in Machine Learning" (2000); Kuncheva, "Combining Pattern
Classifiers" (2004), for weighted votes; Ho, Hull and Srihari, "Decision Combination in Multiple
Classifier Systems" (IEEE PAMI 1994), for ranks, there called the Borda count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["rank_average", "vote", "weighted_vote"]

Array = npt.NDArray[Any]

# Sums of weights in another order differ by as much, although they are equal on paper.
_EQUAL = 1e-6


def vote(predictions: Array, _weights: Array, out: Array) -> None:
    """The share of the members that vote for each output.

    A member votes for its largest output, for the first of them if several are. The output with
    the most votes wins; among equals the one with the largest sum over all members, then the
    first. Where it wins by that, its share is raised by the smallest step that the type knows: so
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
    leading = shares >= shares.max(axis=-1, keepdims=True) * (1 - _EQUAL)
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
    # Infinite sums: whoever leads with -inf is no worse than who does not lead at all.
    lost = ~np.take_along_axis(leading, winners[:, np.newaxis], axis=-1)[:, 0]
    winners = np.where(lost, leading.argmax(axis=-1), winners)
    polls = np.unravel_index(tied, out.shape[:-1])
    out[(*polls, winners)] = np.nextafter(out[polls].max(axis=-1), out.dtype.type(np.inf))


def rank_average(predictions: Array, _weights: Array, out: Array) -> None:
    """``1/M sum_m (r_mc - 1) / (C - 1)`` with the rank r_mc of output c in member m.

    The smallest of C outputs has rank 1, the largest C, equal ones the average of their ranks. So
    1 is an output that all members put first, and the average of a row is 1/2. A lone output is 1.
    """
    candidates = predictions.shape[-1]
    if candidates == 1:
        out[...] = 1
        return
    out[...] = _below(predictions).mean(axis=0) / (candidates - 1)


def _below(predictions: Array) -> Array:
    """How many outputs are smaller than each along the last axis; equal ones count half."""
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
    below = np.empty(predictions.shape)
    np.put_along_axis(below, order, (first + last) / 2, axis=-1)
    return below
