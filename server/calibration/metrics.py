"""Metrics of probabilities and of scores, as `ensembled calibrate` reports them.

Runs in the process of the command line; pure. Probabilities p [rows, classes] and classes y [rows]
flow in, numbers flow out:

========== ======================================================================================
accuracy   share of the rows whose largest probability is that of y; ties go to the first class
log loss   mean of -log p[y], in nats; a probability below 1e-15 counts as 1e-15
Brier      mean of sum_c (p[c] - 1[c = y])^2, from 0 to 2
ECE        sum over 15 bins of equal width of (rows in it / rows) |accuracy - mean confidence|
AUROC      share of the pairs (outside, inside) of which the outside one scores higher; ties half
========== ======================================================================================

Sources: Brier, "Verification of Forecasts Expressed in Terms of Probability" (Monthly Weather
Review 78, 1950), in its first form, over all classes; Guo et al., "On Calibration of Modern Neural
Networks" (ICML 2017) for the expected calibration error, whose confidence is the largest
probability; Hanley and McNeil, "The Meaning and Use of the Area under a Receiver Operating
Characteristic (ROC) Curve" (Radiology 143, 1982).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "BINS",
    "LEAST",
    "Array",
    "ClassIndices",
    "Floats",
    "Metrics",
    "ReliabilityBin",
    "Rows",
    "accuracy",
    "auroc",
    "brier",
    "calibration_error",
    "log_loss",
    "measure",
    "reliability",
]

#: Bins of the expected calibration error.
BINS = 15
#: Smaller probabilities count as this in a log loss.
LEAST = 1e-15

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
ClassIndices = npt.NDArray[np.int64]
#: Numbers of rows.
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """The metrics of some predictions, see the module."""

    accuracy: float
    log_loss: float
    brier: float
    calibration_error: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The rows whose confidence lies in (low, high].

    `confidence` is their mean, `accuracy` the share that is right; both are 0 without rows.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


def measure(p: Floats, y: ClassIndices) -> Metrics:
    """All metrics of probabilities p [rows, classes] for classes y [rows]; at least one row."""
    return Metrics(
        accuracy(p, y), log_loss(p, y), brier(p, y), calibration_error(reliability(p, y))
    )


def accuracy(p: Floats, y: ClassIndices) -> float:
    """Share of the rows whose best class is the right one."""
    return float((p.argmax(axis=1) == y).mean())


def log_loss(p: Floats, y: ClassIndices) -> float:
    """Mean of -log p[y], in nats."""
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], LEAST)).mean())


def brier(p: Floats, y: ClassIndices) -> float:
    """Mean squared distance of the probabilities from the truth, over all classes."""
    return float(((p - (np.arange(p.shape[1]) == y[:, np.newaxis])) ** 2).sum(axis=1).mean())


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """The expected calibration error of the rows in some bins."""
    return sum(one.rows * abs(one.accuracy - one.confidence) for one in bins) / sum(
        one.rows for one in bins
    )


def reliability(p: Floats, y: ClassIndices) -> list[ReliabilityBin]:
    """The rows by their confidence, the largest probability: `BINS` bins, some of them empty."""
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    edges = np.linspace(0, 1, BINS + 1)
    # Rounding may leave a confidence a little above 1.
    numbers = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    rows = np.bincount(numbers, minlength=BINS)
    each = np.maximum(rows, 1)
    mean = np.bincount(numbers, confidence, BINS) / each
    share = np.bincount(numbers, right, BINS) / each
    columns = (edges[:-1], edges[1:], rows, mean, share)
    return [
        ReliabilityBin(*values)
        for values in zip(*(column.tolist() for column in columns), strict=True)
    ]


def auroc(inside: Floats, outside: Floats) -> float:
    """How well scores [rows] separate outside rows, which should score higher, from inside ones."""
    values, numbers = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    within = np.bincount(numbers[: len(inside)], minlength=len(values))
    without = np.bincount(numbers[len(inside) :], minlength=len(values))
    lower = np.cumsum(within) - within
    return float((without * (lower + within / 2)).sum() / (len(inside) * len(outside)))
