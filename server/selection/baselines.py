"""What a selection is compared to: the usual ways to choose an ensemble, without a look at costs.

Runs in the process of the command line; pure. Labelled rows flow in, candidates flow out. Sources:
Caruana et al., "Ensemble Selection from Libraries of Models" (ICML 2004); Feurer et al., "Efficient
and Robust Automated Machine Learning" (NeurIPS 2015), whose 50 rounds are taken.
"""

from __future__ import annotations

import numpy as np

from server.calibration.cascade_thresholds import Flags
from server.calibration.metrics import Floats
from server.calibration.weights import select_members
from server.selection.labelled import LabelledRows
from server.selection.points import Candidate

__all__ = ["baselines", "equal", "weighted"]

_ROUNDS = 50


def equal(rows: LabelledRows, chosen: Flags) -> Candidate:
    """Return the candidate of a set [members] with equal weights."""
    return weighted(rows, chosen.astype(np.float64))


def weighted(rows: LabelledRows, weights: Floats) -> Candidate:
    """Return the candidate with weights [members]; members of weight 0 are not in it."""
    used = np.flatnonzero(weights)
    shares = weights[used] / weights.sum()
    return Candidate(tuple(rows.members[i] for i in used), tuple(map(float, shares)))


def baselines(rows: LabelledRows, *, most: int, top: int) -> dict[str, Candidate]:
    """Return the baselines of at most `most` members by name; `top` is the k of `top_k`.

    `all` is of all members, whatever their number.
    """
    singles = rows.gains(np.eye(len(rows.members)))
    order = np.argsort(-singles, kind="stable")
    best = np.isin(np.arange(len(order)), order[:1])
    first = np.isin(np.arange(len(order)), order[:top])
    counts = select_members(rows.predictions, loss=rows.losses, rounds=min(_ROUNDS, most))
    return {
        "best_single": equal(rows, best),
        "all": equal(rows, np.ones(len(order), np.bool_)),
        "caruana": weighted(rows, counts.astype(np.float64)),
        "top_k": equal(rows, first),
    }
