"""Combination rules: how the members' predictions become one answer.

Runs in the combiner. A rule takes the predictions of the members an answer rests on, as one array
[members, rows, *outputs] (not to be modified), their weights [members] and the array to write the
answer to, [rows, *outputs]. Everything is vectorised over rows.

Sources: Dietterich, "Ensemble Methods in Machine Learning" (2000), for averaging and voting;
Kittler et al., "On Combining Classifiers" (IEEE PAMI 1998), for mean, median, max and product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RULES", "Rule"]

Array = npt.NDArray[Any]
Rule = Callable[[Array, Array, Array], None]


def mean(predictions: Array, _weights: Array, out: Array) -> None:
    """``1/M * sum_m p_m``."""
    np.add.reduce(predictions, axis=0, out=out)
    np.divide(out, len(predictions), out=out)


def weighted_mean(predictions: Array, weights: Array, out: Array) -> None:
    """``sum_m w_m p_m / sum_m w_m`` over the members that the answer rests on."""
    out[...] = np.tensordot(weights / weights.sum(), predictions, axes=1)


def median(predictions: Array, _weights: Array, out: Array) -> None:
    """The median of each output (the mean of the middle two for an even number of members)."""
    np.median(predictions, axis=0, out=out)


def maximum(predictions: Array, _weights: Array, out: Array) -> None:
    """The largest value of each output."""
    np.max(predictions, axis=0, out=out)


def geometric_mean(predictions: Array, _weights: Array, out: Array) -> None:
    """``exp(1/M * sum_m log p_m)``, normalised over the last axis; for probabilities.

    A class that a member rules out (p = 0) is ruled out. If every class is, all are equal.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(predictions).mean(axis=0)
        peak = logs.max(axis=-1, keepdims=True)
        np.exp(np.where(np.isfinite(peak), logs - peak, 0.0), out=out)
    np.divide(out, out.sum(axis=-1, keepdims=True), out=out)


def vote(predictions: Array, _weights: Array, out: Array) -> None:
    """The share of members whose largest output is this one, over the last axis.

    A member's own tie goes to its first largest output.
    """
    winners = predictions.argmax(axis=-1)
    classes = np.arange(predictions.shape[-1])
    out[...] = (winners[..., np.newaxis] == classes).mean(axis=0)


#: The rules by their name in the configuration.
RULES: dict[str, Rule] = {
    "mean": mean,
    "weighted_mean": weighted_mean,
    "vote": vote,
    "median": median,
    "max": maximum,
    "geometric_mean": geometric_mean,
}
