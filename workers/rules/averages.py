"""Rules that combine each output by itself: means, medians, extremes.

Run in the combiner. Predictions [members, rows, *outputs] of the members that an answer rests on
flow in, float32 or float64 and not to be modified, with their weights [members]; the answer is
written to `out`, [rows, *outputs]. Sums are taken by `einsum`: it is the quickest over many rows,
and it starts no threads, which BLAS does for larger arrays.

Sources: Dietterich, "Ensemble Methods in Machine Learning" (2000), for averaging and voting;
Kittler et al., "On Combining Classifiers" (IEEE PAMI 1998), for mean, median, max, min and product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "DEFAULT_TRIM",
    "geometric_mean",
    "maximum",
    "mean",
    "median",
    "minimum",
    "trimmed",
    "trimmed_mean",
    "weighted_mean",
]

Array = npt.NDArray[Any]

#: The share of the members that `trimmed_mean` leaves out at each end.
DEFAULT_TRIM = 0.2


def mean(predictions: Array, _weights: Array, out: Array) -> None:
    """``1/M sum_m p_m``."""
    np.einsum("m...->...", predictions, out=out)
    np.divide(out, len(predictions), out=out)


def weighted_mean(predictions: Array, weights: Array, out: Array) -> None:
    """``sum_m w_m p_m / sum_m w_m`` over the members that the answer rests on."""
    shares = (weights / weights.sum()).astype(predictions.dtype)
    np.einsum("m,m...->...", shares, predictions, out=out)


def median(predictions: Array, _weights: Array, out: Array) -> None:
    """The median of each output (the mean of the middle two for an even number of members)."""
    count = len(predictions)
    _mean_of_sorted(predictions, (count - 1) // 2, out)


def trimmed_mean(
    predictions: Array, _weights: Array, out: Array, trim: float = DEFAULT_TRIM
) -> None:
    """The mean of each output without its ``floor(trim M)`` smallest and as many largest values.

    Of so few members that nothing is cut it is the mean; of two or one it always is.
    Source: Jose and Winkler, "Simple robust averages of forecasts" (IJF 24, 2008).
    """
    _mean_of_sorted(predictions, trimmed(len(predictions), trim), out)


def trimmed(members: int, trim: float) -> int:
    """How many of so many members are cut at each end."""
    # Without the sum, 29 of 100 would be 28: 0.29 * 100 is a little less.
    return min(int(trim * members + 1e-9), (members - 1) // 2)


def _mean_of_sorted(predictions: Array, cut: int, out: Array) -> None:
    """The mean of each output without its `cut` smallest and its `cut` largest values."""
    if cut:
        predictions = np.sort(predictions, axis=0)[cut:-cut]
    np.einsum("m...->...", predictions, out=out)
    np.divide(out, len(predictions), out=out)


def maximum(predictions: Array, _weights: Array, out: Array) -> None:
    """The largest value of each output."""
    np.max(predictions, axis=0, out=out)


def minimum(predictions: Array, _weights: Array, out: Array) -> None:
    """The smallest value of each output."""
    np.min(predictions, axis=0, out=out)


def geometric_mean(predictions: Array, _weights: Array, out: Array) -> None:
    """``exp(1/M sum_m log p_m)``, normalised over the last axis; for probabilities.

    A class that a member rules out (p = 0) is ruled out. If every class is, all are equal.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(predictions).mean(axis=0)
        peak = logs.max(axis=-1, keepdims=True)
        np.exp(np.where(np.isfinite(peak), logs - peak, 0.0), out=out)
    np.divide(out, out.sum(axis=-1, keepdims=True), out=out)
