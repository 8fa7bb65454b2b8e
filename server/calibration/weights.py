"""Fits the weights of a weighted mean of the members' probabilities.

Runs in the process of the command line; pure. The log loss of ``sum_m w_m p_m[y]`` is convex in the
weights, which are positive and add up to 1. The algorithm multiplies each weight by the mean, over
rows, of the member's share of the mixture, ``p_m[y] / sum_k w_k p_k[y]``. That is expectation
maximisation of a mixture's proportions (Dempster, Laird and Rubin, JRSS B 39, 1977): weights stay
positive, add up to 1, and the loss never rises. The largest of these means, minus 1, bounds how far
the loss is above its minimum (Cover, "An Algorithm for Maximizing Expected Log Investment Return",
IEEE Transactions on Information Theory 30, 1984), so the search knows when it is done.
"""

from __future__ import annotations

import numpy as np

from server.calibration.metrics import LEAST, Floats

__all__ = ["fit_weights"]

#: The loss is at most so far above its minimum, in nats.
_GAP = 1e-6
_STEPS = 20_000


def fit_weights(truth: Floats) -> Floats:
    """Return the weights with the least log loss, [members]; positive, they add up to 1.

    Args:
        truth: each member's probability of the right class, [members, rows].
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
