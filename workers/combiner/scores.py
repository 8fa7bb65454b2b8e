"""How much the members agree on a row: scores of their uncertainty.

Runs in the combiner. With p_m the class probabilities of member m, M members, and their mean
``p = 1/M sum_m p_m``:

================== ==================================================================== ==========
entropy            H(p) = -sum_c p_c log p_c, in nats                                   all doubt
expected_entropy   1/M sum_m H(p_m)                                                     of the data
mutual_information entropy - expected_entropy                                           of the model
variance           1/C sum_c 1/M sum_m (p_mc - p_c)^2                                   of the model
vote_share         share of the members whose best class is the most voted one          1 = agreed
disagreement       share of the pairs of members whose best classes differ              0 = agreed
================== ==================================================================== ==========

Sources: Depeweg et al., "Decomposition of Uncertainty in Bayesian Deep Learning" (ICML 2018), and
Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles" (NeurIPS 2017) for the entropies; Kuncheva and Whitaker, "Measures of Diversity in
Classifier Ensembles" (Machine Learning 51, 2003) for disagreement.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CLASS_SCORES", "VALUE_SCORES", "score"]

#: Of members that give a probability per class, in the order in which they are stored.
CLASS_SCORES = (
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variance",
    "vote_share",
    "disagreement",
)
#: Of members that give any other values.
VALUE_SCORES = ("variance",)

Array = npt.NDArray[Any]


def score(predictions: Array, names: tuple[str, ...], out: Array) -> None:
    """Write the scores of some rows.

    Args:
        predictions: [members, rows, *outputs] of the members that the answer rests on.
        names: `CLASS_SCORES` (then outputs are classes) or `VALUE_SCORES`.
        out: FP32 [rows, at least as many as names].
    """
    values = predictions.astype(np.float64)
    if names == VALUE_SCORES:
        out[:, 0] = _variance(values)
        return
    total = _entropy(values.mean(axis=0))
    expected = _entropy(values).mean(axis=0)
    votes = _votes(values)
    members = len(values)
    pairs = members * (members - 1)
    agreeing = (votes * (votes - 1)).sum(axis=-1)
    out[:, 0] = total
    out[:, 1] = expected
    out[:, 2] = np.maximum(total - expected, 0.0)
    out[:, 3] = _variance(values)
    out[:, 4] = votes.max(axis=-1) / members
    out[:, 5] = 1.0 - agreeing / pairs if pairs else 0.0


def _entropy(probabilities: Array) -> Array:
    """In nats, over the last axis; 0 log 0 is 0."""
    positive = probabilities > 0
    logs = np.log(np.where(positive, probabilities, 1.0))
    return np.asarray(-(np.where(positive, probabilities, 0.0) * logs).sum(axis=-1))


def _variance(values: Array) -> Array:
    """Over the members, averaged over the outputs: [rows]."""
    spread = values.var(axis=0)
    return np.asarray(spread.reshape(len(spread), -1).mean(axis=1))


def _votes(values: Array) -> Array:
    """How many members' best class each class is: [rows, classes]; ties go to the first."""
    classes = np.arange(values.shape[-1])
    return np.asarray((values.argmax(axis=-1)[..., np.newaxis] == classes).sum(axis=0))
