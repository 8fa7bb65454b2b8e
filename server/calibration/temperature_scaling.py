"""Temperature scaling: what a member's logits are divided by before the softmax.

Runs in the process of the command line; pure. Predictions flow in; temperatures, and predictions
with other temperatures, flow out. Source: Guo et al., "On Calibration of Modern Neural Networks"
(ICML 2017), section 4.2. The log loss of ``softmax(b z)`` is convex in b = 1 / T, since it is a sum
of log-sum-exp minus linear terms; so the one place where its slope changes sign is found by
bisection, which needs no step size and can't diverge. Probabilities p serve as well as logits:
``log p`` differs from them by a constant per row, to which the softmax is invariant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from server.calibration.metrics import ClassIndices, Floats
from server.members.inspect import InspectedMember
from workers.worker.postprocess import probabilities

__all__ = [
    "HIGHEST",
    "LOWEST",
    "fit_member",
    "fit_temperature",
    "has_temperature",
    "log_probabilities",
    "rescale",
]

#: A temperature is searched between these: beyond them a member is certain of all or of nothing.
LOWEST, HIGHEST = 1e-3, 1e3
#: Each halves the range of log T, which is 14 in the beginning.
_STEPS = 34
_DIGITS = 4
#: What is left of a probability that was too small for FP32, if it came from finite logits.
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def has_temperature(member: InspectedMember) -> bool:
    """Whether a member's output is softened by a temperature."""
    return member.output.config.kind in {"logits", "probabilities"}


def fit_member(member: InspectedMember, p: Floats, y: ClassIndices) -> tuple[float, str | None]:
    """Return a member's new temperature, and a note if it could not be fitted.

    Its predictions p [rows, classes] are those with its configured temperature.
    """
    if not has_temperature(member):
        return member.output.config.temperature, None
    # The predictions come with the configured temperature, so the fitted one multiplies it.
    factor = fit_temperature(
        log_probabilities(p, of_logits=member.output.config.kind == "logits"), y
    )
    note = None
    if (p.argmax(axis=1) == y).all():
        note = f"{member.name} is right in all rows: its temperature can't be fitted"
    elif factor == HIGHEST:
        note = f"{member.name} is no better than chance: its temperature is {factor:g}"
    return float(f"{member.output.config.temperature * factor:.{_DIGITS}g}"), note


def rescale(
    members: Sequence[InspectedMember], predictions: Floats, temperatures: Sequence[float]
) -> Floats:
    """Return predictions [members, rows, classes] with others than the configured temperatures."""
    rescaled = predictions.copy()
    for i, (member, new) in enumerate(zip(members, temperatures, strict=True)):
        if new != (old := member.output.config.temperature):
            of_logits = member.output.config.kind == "logits"
            logits = log_probabilities(predictions[i], of_logits=of_logits)
            rescaled[i] = probabilities(logits, new / old)
    return rescaled


def log_probabilities(p: Floats, *, of_logits: bool) -> Floats:
    """Return log p [rows, classes]; that of 0 is minus infinity.

    With `of_logits`, probabilities come from finite logits, so that 0 in some rows is a number too
    small for FP32. Classes that are 0 in all rows are those that the member does not have.
    """
    if of_logits:
        p = np.where((p > 0).any(axis=0), np.maximum(p, _SMALLEST), p)
    with np.errstate(divide="ignore"):
        return np.log(p)


def fit_temperature(logits: Floats, y: ClassIndices) -> float:
    """Return the temperature with the least log loss, within `LOWEST` and `HIGHEST`.

    Rows whose class is impossible by `logits` say nothing about it. It is 1 if no row says
    anything, or if the member is right in all of them: the least loss would then be that of no
    doubt at all.

    Logits [rows, classes] may be logarithms of probabilities.
    """
    possible = np.isfinite(logits[np.arange(len(y)), y])
    logits, y = logits[possible], y[possible]
    if (logits.argmax(axis=1) == y).all():
        return 1.0
    # The best class's logit is made 0, so that rows that are right have no rounding errors.
    logits = logits - logits.max(axis=1, keepdims=True)
    finite = np.where(np.isfinite(logits), logits, 0.0)
    true = float(logits[np.arange(len(y)), y].mean())

    def slope(temperature: float) -> float:
        """The derivative of the loss by 1 / T: the expected minus the true logit."""
        return float(np.vdot(probabilities(logits, temperature), finite)) / len(y) - true

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
