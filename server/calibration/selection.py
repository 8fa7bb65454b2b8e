"""Greedy selection of members, with replacement: how often each of them counts in the mean.

Runs in the process of the command line; pure. Source: Caruana et al., "Ensemble Selection from
Libraries of Models" (ICML 2004), with the three things that it does against overfitting: members
may be selected again, the selection begins with the best ones (section 2.2), and it may be
repeated with random bags of the members, the counts of which are added (section 2.3). As in
auto-sklearn (Feurer et al., "Efficient and Robust Automated Machine Learning", NeurIPS 2015) there
are 50 rounds, and the selection is that of the round with the least loss.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.calibration.metrics import LEAST, Floats

__all__ = ["select"]

_ROUNDS = 50

Counts = npt.NDArray[np.int64]


def select(
    truth: Floats, *, rounds: int = _ROUNDS, bags: int = 0, share: float = 0.5, seed: int = 0
) -> Counts:
    """Return how often each member is selected, [members]; at least one is.

    Args:
        truth: each member's probability of the right class, [members, rows].
        rounds: members selected at most, with repetition.
        bags: how many random bags of members to select from; 0 is once, from all of them.
        share: of the members in each bag.
        seed: of the bags.
    """
    if not bags:
        return _select(truth, rounds)
    random, members = np.random.default_rng(seed), len(truth)
    counts = np.zeros(members, np.int64)
    for _ in range(bags):
        bag = np.sort(random.choice(members, max(1, round(share * members)), replace=False))
        counts[bag] += _select(truth[bag], rounds)
    return counts


def _select(truth: Floats, rounds: int) -> Counts:
    counts = _best_ones(truth, rounds)
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


def _best_ones(truth: Floats, most: int) -> Counts:
    """Select the N best members once each, for the N whose mean has the least loss."""
    order = np.argsort([_loss(one, 1) for one in truth], kind="stable")[:most]
    sums = np.cumsum(truth[order], axis=0)
    number = int(np.argmin([_loss(one, i) for i, one in enumerate(sums, 1)])) + 1
    counts = np.zeros(len(truth), np.int64)
    counts[order[:number]] = 1
    return counts


def _loss(total: Floats, selected: int) -> float:
    return float(-np.log(np.maximum(total / selected, LEAST)).mean())
