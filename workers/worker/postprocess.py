"""Turns a member's raw output into a prediction that can be combined.

Runs in the worker; pure. By the kind of the output:

============= ==================================================================================
logits        z: ``softmax(z / T)`` over the axis of the classes
probabilities p: ``p ** (1 / T)``, normalised over that axis; unchanged for T = 1
binary        p, the probability of the second of two classes: ``[1 - p, p]``, then as above
binary_logits z, the logit of that class: ``softmax([0, z] / T)``
class         the index of a class: 1 for this class, 0 for all others
values        unchanged
normal        mean and variance along the last axis, from mean and variance, deviation or logarithm
quantiles     in ascending order along the last axis
============= ==================================================================================

T is the member's temperature (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
Quantiles that cross are sorted: Chernozhukov, Fernández-Val and Galichon, "Quantile and Probability
Curves Without Crossing" (Econometrica 78, 2010), show that this can only bring them nearer to the
true ones. A row without such an interpretation becomes NaN, which counts as its member's failure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.runtime.spec import OutputSpec, Spread

__all__ = [
    "mean_and_variance",
    "one_hot",
    "postprocessor",
    "probabilities",
    "tempered",
    "two_classes",
]

Array = npt.NDArray[Any]


def postprocessor(spec: OutputSpec) -> Callable[[Array], Array]:
    """Return the function from a model's raw output [rows, ...] to predictions [rows, ...]."""
    temperature, axis = spec.temperature, spec.class_axis
    if temperature == 1 and spec.kind == "probabilities":
        return _unchanged
    if temperature == 1 and spec.kind == "binary":
        return two_classes
    functions: dict[str, Callable[[Array], Array]] = {
        "logits": partial(probabilities, temperature=temperature, axis=axis),
        "probabilities": partial(tempered, temperature=temperature, axis=axis),
        "binary": lambda raw: tempered(two_classes(raw), temperature),
        "binary_logits": lambda raw: probabilities(_two_logits(raw), temperature),
        "class": partial(one_hot, classes=spec.classes),
        "values": _unchanged,
        "normal": partial(mean_and_variance, spread=spec.spread),
        "quantiles": lambda raw: np.sort(_wide(raw), axis=-1),
    }
    return functions[spec.kind]


def _unchanged(raw: Array) -> Array:
    return raw


def probabilities(logits: Array, temperature: float = 1.0, axis: int = -1) -> Array:
    """Return the softmax over an axis of logits [rows, *outputs], in FP32 or wider.

    -inf has probability 0.
    """
    values = _wide(logits)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite logits become NaN, a failed row
        shifted = values - np.maximum.reduce(values, axis=axis, keepdims=True)
        if temperature != 1:
            shifted /= temperature
        return _normalised(np.exp(shifted, out=shifted), axis)


def tempered(values: Array, temperature: float, axis: int = -1) -> Array:
    """Return ``p ** (1 / temperature)`` of probabilities [rows, *outputs], in FP32 or wider.

    They are normalised over an axis. A temperature below 1 sharpens, above 1 softens.
    """
    wide = _wide(values)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Relative to the largest, so that not all powers can underflow to 0.
        return _normalised((wide / wide.max(axis=axis, keepdims=True)) ** (1 / temperature), axis)


def one_hot(indices: Array, classes: int) -> npt.NDArray[np.float32]:
    """Return FP32 [rows, classes]: 1 for the class of each row, 0 for others, NaN if invalid.

    The indices are whole numbers, [rows] or [rows, 1].
    """
    column = indices.reshape(len(indices), 1)
    rows: npt.NDArray[np.float32] = (column == np.arange(classes)).astype(np.float32)
    rows[((column < 0) | (column >= classes))[:, 0]] = np.nan
    return rows


def two_classes(raw: Array) -> Array:
    """Return ``[1 - p, p]`` of probabilities p [rows] or [rows, 1]: [rows, 2], FP32 or wider.

    NaN where p is not from 0 to 1.
    """
    second = _wide(raw).reshape(len(raw), 1)
    columns = np.concatenate([1 - second, second], axis=1)
    columns[((second < 0) | (second > 1))[:, 0]] = np.nan
    return columns


def mean_and_variance(raw: Array, spread: Spread) -> Array:
    """Return means and variances [rows, ..., 2] in FP32 or wider; NaN for a negative spread."""
    values = _wide(raw).copy()
    second = values[..., 1]
    with np.errstate(over="ignore"):
        if spread == "log_variance":
            np.exp(second, out=second)
        else:
            second[second < 0] = np.nan
    if spread == "std":
        np.square(second, out=second)
    return values


def _two_logits(raw: Array) -> Array:
    """Return ``[0, z]`` of logits z [rows] or [rows, 1]: [rows, 2], FP32 or wider."""
    second = _wide(raw).reshape(len(raw), 1)
    return np.concatenate([np.zeros_like(second), second], axis=1)


def _wide(values: Array) -> Array:
    return values.astype(np.promote_types(values.dtype, np.float32), copy=False)


def _normalised(powers: Array, axis: int) -> Array:
    powers /= np.add.reduce(powers, axis=axis, keepdims=True)
    return powers
