"""Uncertainty scores of a row, and whether its best class is certain without the other members.

Runs in the combiner; pure. With p_m the class probabilities of member m, M members, and their mean
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

from workers.runtime.spec import VALUE_SCORES

__all__ = ["EARLY_RULES", "is_certain", "score"]

Array = npt.NDArray[Any]


def score(predictions: Array, names: tuple[str, ...], out: Array) -> None:
    """Write the scores of rows to `out`, FP32 [rows, names, *shape].

    The predictions are [members, rows, *outputs] of the members that the answer rests on. Names are
    `ensembled_client.wire.CLASS_SCORES`, then the classes are the last axis, and a map has a score
    at each of its points, *shape; or `VALUE_SCORES`.
    """
    values = predictions.astype(np.float64)
    if names == VALUE_SCORES:
        spread = values.var(axis=0)
        out[:, 0] = spread.reshape(len(spread), -1).mean(axis=1)
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
    out[:, 3] = values.var(axis=0).mean(axis=-1)
    out[:, 4] = votes.max(axis=-1) / members
    out[:, 5] = 1.0 - agreeing / pairs if pairs else 0.0


def _entropy(probabilities: Array) -> Array:
    """Return the entropy over the last axis in nats; 0 log 0 is 0."""
    positive = probabilities > 0
    logs = np.log(np.where(positive, probabilities, 1.0))
    return np.asarray(-(np.where(positive, probabilities, 0.0) * logs).sum(axis=-1))


def _votes(values: Array) -> Array:
    """Return each class's votes, one per member: [..., classes]; ties go to the first."""
    classes = np.arange(values.shape[-1])
    return np.asarray((values.argmax(axis=-1)[..., np.newaxis] == classes).sum(axis=0))


#: Rules with which a missing member can change no class by more than its own weight.
EARLY_RULES = frozenset({"mean", "weighted_mean", "vote", "weighted_vote"})
#: What rounding may add to a lead, as a fraction of all weights: sums are in double precision, but
#: the answer of the whole ensemble would be rounded to the type of its output.
_ROUNDING = 1e-5


def is_certain(
    rule: str, predictions: Array, weights: Array, missing_weight: float
) -> npt.NDArray[np.bool_]:
    """Return whether no missing member can change the best class of each row, bool [rows].

    A member adds between nothing and its whole weight to each class: its probability times its
    weight, or its vote. So it can reduce a lead by at most its weight.

    Args:
        rule: one of `EARLY_RULES`.
        predictions: [members, rows, classes], probabilities of the members that are done.
        weights: [members], theirs; all ones for a rule without weights.
        missing_weight: of all other members together.
    """
    values = predictions.astype(np.float64)
    if rule in {"vote", "weighted_vote"}:
        values = (values.argmax(axis=-1)[..., np.newaxis] == np.arange(values.shape[-1])) * 1.0
    sums = np.einsum("m,mrc->rc", weights, values)
    if sums.shape[-1] == 1:
        return np.ones(len(sums), np.bool_)
    second, first = np.partition(sums, -2, axis=-1)[:, -2:].T
    allowance = _ROUNDING * (float(weights.sum()) + missing_weight)
    return np.asarray(first - second > missing_weight + allowance)
