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

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from server.calibration.metrics import LEAST, Floats

__all__ = ["Counts", "fit_weights", "select_members"]

Counts = npt.NDArray[np.int64]
#: The losses of several answers [answers, ...].
Losses = Callable[[Floats], Floats]

#: The loss is at most so far above its minimum, in nats.
_GAP = 1e-6
_STEPS = 20_000
_ROUNDS = 50


def _log_loss(truth: Floats) -> Floats:
    return np.asarray(-np.log(np.maximum(truth, LEAST)).mean(axis=-1))


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


def select_members(
    answers: Floats,
    *,
    loss: Losses = _log_loss,
    rounds: int = _ROUNDS,
    bags: int = 0,
    seed: int = 0,
) -> Counts:
    """Return how often each member is selected, [members]; at least one is.

    Of `answers` [members, ...], at most `rounds` members are selected, with repetition, from each
    of `bags` random bags of half the members; 0 is once, from all. `loss` is that of means of
    answers, [means, ...] to [means]; by default the log loss, of the probabilities of the right
    class as in `fit_weights`.
    """
    if not bags:
        return _select(answers, loss, rounds)
    random, members = np.random.default_rng(seed), len(answers)
    counts = np.zeros(members, np.int64)
    for _ in range(bags):
        bag = np.sort(random.choice(members, max(1, round(members / 2)), replace=False))
        counts[bag] += _select(answers[bag], loss, rounds)
    return counts


def _select(answers: Floats, loss: Losses, rounds: int) -> Counts:
    counts = _best_members(answers, loss, rounds)
    total: Floats = np.tensordot(counts, answers, 1)
    best, best_loss = counts.copy(), float(loss(total[np.newaxis] / counts.sum())[0])
    for selected in range(int(counts.sum()) + 1, rounds + 1):
        losses = loss((total + answers) / selected)
        chosen = int(np.argmin(losses))
        counts[chosen] += 1
        total = total + answers[chosen]
        if losses[chosen] < best_loss:
            best, best_loss = counts.copy(), float(losses[chosen])
    return best


def _best_members(answers: Floats, loss: Losses, most: int) -> Counts:
    """Select the N best members once each, for the N whose mean has the least loss."""
    order = np.argsort(loss(answers), kind="stable")[:most]
    sizes = np.arange(1, len(order) + 1).reshape(-1, *[1] * (answers.ndim - 1))
    number = int(np.argmin(loss(np.cumsum(answers[order], axis=0) / sizes))) + 1
    counts = np.zeros(len(answers), np.int64)
    counts[order[:number]] = 1
    return counts
