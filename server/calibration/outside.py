"""How well scores of uncertainty tell rows from outside the training data.

Runs in the process of the command line; pure. Members' predictions of held-out and of outside rows
flow in, an AUROC per score flows out. The scores are the server's own, `workers.combiner.scores`.
"""

from __future__ import annotations

import numpy as np

from server.calibration.metrics import Floats, auroc
from workers.combiner.scores import CLASS_SCORES, score

__all__ = ["ONE_MINUS_MAX", "detection"]

#: Not a score of its own: anyone can compute it from `output`.
ONE_MINUS_MAX = "1 - max probability"
_VOTE_SHARE = "vote_share"


def detection(inside: Floats, outside: Floats) -> dict[str, float]:
    """Return the AUROC of each score for telling outside rows from inside ones.

    Args:
        inside: probabilities [members, rows, classes].
        outside: the same of rows from elsewhere.
    """
    within, without = _scores(inside), _scores(outside)
    return {name: auroc(within[name], without[name]) for name in within}


def _scores(p: Floats) -> dict[str, Floats]:
    """Scores [rows] that are high where there is doubt."""
    out = np.empty((p.shape[1], len(CLASS_SCORES)), np.float32)
    score(p, CLASS_SCORES, out)
    scores = {name: out[:, i].astype(np.float64) for i, name in enumerate(CLASS_SCORES)}
    share = scores.pop(_VOTE_SHARE)
    return {
        **scores,
        f"1 - {_VOTE_SHARE}": 1 - share,
        ONE_MINUS_MAX: 1 - p.mean(axis=0).max(axis=1),
    }
