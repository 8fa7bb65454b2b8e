"""When the best class of an ensemble is certain, whatever the members that are missing say.

Runs in the combiner; pure. The members that are there have given a class a lead; if the rest, all
together, cannot make up for it, there is no need to wait for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EARLY_RULES", "is_certain"]

#: Rules by which a missing member can move no class by more than its own weight.
EARLY_RULES = frozenset({"mean", "weighted_mean", "vote", "weighted_vote"})
#: What rounding may have added to a lead, as a share of all weights: sums are in double precision,
#: but the answer that the whole ensemble would give is rounded to the type of its output.
_ROUNDING = 1e-5

Array = npt.NDArray[Any]


def is_certain(
    rule: str, predictions: Array, weights: Array, missing_weight: float
) -> npt.NDArray[np.bool_]:
    """Whether no missing member can change the best class of each row.

    A member gives each class between nothing and its whole weight: its probability times its
    weight, or its vote. So it can take from a lead at most its weight.

    Args:
        rule: one of `EARLY_RULES`.
        predictions: [members, rows, classes], probabilities of the members that are there.
        weights: [members], theirs; all ones for a rule without weights.
        missing_weight: of the members that are not, together.

    Returns:
        bool [rows].
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
