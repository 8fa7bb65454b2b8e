"""Weights of a weighted mean of the members' probabilities, fitted in two ways.

Runs in the process of the command line; pure. Each member's probability of the right class flows
in, weights flow out: those with the least log loss, or how often a greedy selection chose each
member.

`fit_weights`: the log loss of ``sum_m w_m p_m[y]`` is convex in the weights, which are positive and
add up to 1. The algorithm multiplies each weight by the mean, over rows, of the member's share of
the mixture, ``p_m[y] / sum_k w_k p_k[y]``. That is expectation maximisation of a mixture's
proportions (Dempster, Laird and Rubin, JRSS B 39, 1977): weights stay positive, add up to 1, and
the loss never rises. The largest of these means, minus 1, bounds how far the loss is above its
minimum (Cover, "An Algorithm for Maximizing Expected Log Investment Return", IEEE Transactions on
Information Theory 30, 1984), which is the stopping criterion.

`select_members`: greedy selection with replacement, Caruana et al., "Ensemble Selection from
Libraries of Models" (ICML 2004), with its three measures against overfitting: members may be
selected again, the selection begins with the best ones (section 2.2), and it may be repeated with
random bags of the members, the counts of which are added (section 2.3). As in auto-sklearn (Feurer
et al., "Efficient and Robust Automated Machine Learning", NeurIPS 2015) there are 50 rounds, and
the selection is that of the round with the least loss.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.calibration.metrics import LEAST, Floats

__all__ = ["Counts", "fit_weights", "select_members"]

Counts = npt.NDArray[np.int64]

#: The loss is at most so far above its minimum, in nats.
_GAP = 1e-6
_STEPS = 20_000
_ROUNDS = 50


def fit_weights(truth: Floats) -> Floats:
    """Return the weights with the least log loss, [members]; positive, they add up to 1.

    `truth` is each member's probability of the right class, [members, rows].
    """
    truth = np.maximum(truth, LEAST)
    weights = np.full(len(truth), 1 / len(truth))
    for _ in range(_STEPS):
        gains = (truth / (weights @ truth)).mean(axis=1)
        if gains.max() - 1 < _GAP:
            break
        weights = weights * gains
        weights /= weights.sum()  # it is 1 but for rounding
    return weights


def select_members(truth: Floats, *, rounds: int = _ROUNDS, bags: int = 0, seed: int = 0) -> Counts:
    """Return how often each member is selected, [members]; at least one is.

    Of `truth`, as in `fit_weights`, at most `rounds` members are selected, with repetition, from
    each of `bags` random bags of half the members; 0 is once, from all.
    """
    if not bags:
        return _select(truth, rounds)
    random, members = np.random.default_rng(seed), len(truth)
    counts = np.zeros(members, np.int64)
    for _ in range(bags):
        bag = np.sort(random.choice(members, max(1, round(members / 2)), replace=False))
        counts[bag] += _select(truth[bag], rounds)
    return counts


def _select(truth: Floats, rounds: int) -> Counts:
    counts = _best_members(truth, rounds)
    total: Floats = counts @ truth
    best, best_loss = counts.copy(), _loss(total, int(counts.sum()))
    for selected in range(int(counts.sum()) + 1, rounds + 1):
        losses = [_loss(total + one, selected) for one in truth]
        chosen = int(np.argmin(losses))
        counts[chosen] += 1
        total = total + truth[chosen]
        if losses[chosen] < best_loss:
            best, best_loss = counts.copy(), losses[chosen]
    return best


def _best_members(truth: Floats, most: int) -> Counts:
    """Select the N best members once each, for the N whose mean has the least loss."""
    order = np.argsort([_loss(one, 1) for one in truth], kind="stable")[:most]
    sums = np.cumsum(truth[order], axis=0)
    number = int(np.argmin([_loss(one, i) for i, one in enumerate(sums, 1)])) + 1
    counts = np.zeros(len(truth), np.int64)
    counts[order[:number]] = 1
    return counts


def _loss(total: Floats, selected: int) -> float:
    return float(-np.log(np.maximum(total / selected, LEAST)).mean())
