"""Fits a member's temperature: what its logits are divided by before the softmax.

Runs in the process of the command line; pure. Source: Guo et al., "On Calibration of Modern Neural
Networks" (ICML 2017), section 4.2. The log loss of ``softmax(b z)`` is convex in b = 1 / T, since
it is a sum of log-sum-exp minus linear terms; so the one place where its slope changes sign is
found by bisection, which needs no step size and can't diverge. Probabilities p serve as well as
logits: ``log p`` differs from them by a number per row, which the softmax does not see.
"""

from __future__ import annotations

import math

import numpy as np

from server.calibration.metrics import Classes, Floats

__all__ = ["HIGHEST", "LOWEST", "fit_temperature", "logarithms", "tempered"]

#: A temperature is searched between these: beyond them a member is certain of all or of nothing.
LOWEST, HIGHEST = 1e-3, 1e3
#: Each halves the range of log T, which is 14 in the beginning.
_STEPS = 34
#: What is left of a probability that was too small for FP32, if it came from finite logits.
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def logarithms(p: Floats, *, of_logits: bool) -> Floats:
    """Return log p [rows, classes]; that of 0 is minus infinity.

    Args:
        p: probabilities [rows, classes].
        of_logits: whether no class that the member knows is impossible, so that 0 in some row only
            means a number too small for FP32. It does not know those that are 0 in all rows.
    """
    if of_logits:
        p = np.where((p > 0).any(axis=0), np.maximum(p, _SMALLEST), p)
    with np.errstate(divide="ignore"):
        return np.log(p)


def tempered(logs: Floats, temperature: float) -> Floats:
    """Return ``softmax(logs / temperature)`` over the classes, [rows, classes]."""
    scaled = logs / temperature
    powers: Floats = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def fit_temperature(logs: Floats, y: Classes) -> float:
    """Return the temperature with the least log loss, within `LOWEST` and `HIGHEST`.

    Rows whose class is impossible by `logs` say nothing about the temperature.

    Args:
        logs: logarithms of probabilities, or logits, [rows, classes].
        y: classes [rows].

    Returns:
        1 if no row says anything, or if the member is right in all of them: the least loss would
        then be that of no doubt at all.
    """
    possible = np.isfinite(logs[np.arange(len(y)), y])
    logs, y = logs[possible], y[possible]
    if (logs.argmax(axis=1) == y).all():
        return 1.0
    # The best class's logarithm is 0, so that in rows that are right nothing is left to rounding.
    logs = logs - logs.max(axis=1, keepdims=True)
    finite = np.where(np.isfinite(logs), logs, 0.0)
    true = float(logs[np.arange(len(y)), y].mean())

    def slope(temperature: float) -> float:
        """The derivative of the loss by 1 / T: the expected minus the true logarithm."""
        p = tempered(logs, temperature)
        return float(np.vdot(p, finite)) / len(y) - true

    if slope(LOWEST) <= 0:
        return LOWEST
    if slope(HIGHEST) >= 0:
        return HIGHEST
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if slope(math.exp(middle)) > 0:
            low = middle  # a smaller 1 / T, thus a higher T, is better
        else:
            high = middle
    return math.exp((low + high) / 2)
