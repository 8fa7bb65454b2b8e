"""Turns a member's raw output into a prediction that can be combined.

Runs in the worker; pure. By the kind of the output:

============= ==================================================================================
logits        z: ``softmax(z / T)`` over the last axis
probabilities p: ``p ** (1 / T)``, normalised over the last axis; unchanged for T = 1
class         the index of a class: 1 for this class, 0 for all others
values        unchanged
============= ==================================================================================

T is the member's temperature (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
A row without such an interpretation becomes NaN, which counts as its member's failure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.runtime.spec import InstanceSpec

__all__ = ["one_hot", "postprocessor", "probabilities", "tempered"]

Array = npt.NDArray[Any]


def postprocessor(spec: InstanceSpec) -> Callable[[Array], Array]:
    """Return the function from an instance's raw outputs [rows, ...] to predictions [rows, ...]."""
    if spec.output_kind == "logits":
        return partial(probabilities, temperature=spec.temperature)
    if spec.output_kind == "probabilities" and spec.temperature != 1:
        return partial(tempered, temperature=spec.temperature)
    if spec.output_kind == "class":
        return partial(one_hot, classes=spec.classes)
    return lambda raw: raw


def probabilities(logits: Array, temperature: float = 1.0) -> Array:
    """Return the softmax over the last axis of logits [rows, *outputs], in FP32 or wider.

    -inf has probability 0.
    """
    values = _wide(logits)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite logits become NaN, a failed row
        shifted = values - np.maximum.reduce(values, axis=-1, keepdims=True)
        if temperature != 1:
            shifted /= temperature
        return _normalised(np.exp(shifted, out=shifted))


def tempered(values: Array, temperature: float) -> Array:
    """Return ``p ** (1 / temperature)`` of probabilities [rows, *outputs], in FP32 or wider.

    They are normalised over the last axis. A temperature below 1 sharpens, above 1 softens.
    """
    wide = _wide(values)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Relative to the largest, so that not all powers can underflow to 0.
        return _normalised((wide / wide.max(axis=-1, keepdims=True)) ** (1 / temperature))


def one_hot(indices: Array, classes: int) -> npt.NDArray[np.float32]:
    """Return FP32 [rows, classes]: 1 for the class of each row, 0 for others, NaN if invalid.

    The indices are whole numbers, [rows] or [rows, 1].
    """
    column = indices.reshape(len(indices), 1)
    rows: npt.NDArray[np.float32] = (column == np.arange(classes)).astype(np.float32)
    rows[((column < 0) | (column >= classes))[:, 0]] = np.nan
    return rows


def _wide(values: Array) -> Array:
    return values.astype(np.promote_types(values.dtype, np.float32), copy=False)


def _normalised(powers: Array) -> Array:
    powers /= np.add.reduce(powers, axis=-1, keepdims=True)
    return powers
