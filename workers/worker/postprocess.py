"""What a member's output means, and how it becomes a prediction that can be combined.

Runs in the worker; pure. The model's own output flows in, probabilities or values flow out.

============= ==================================================================================
logits        z: ``softmax(z / T)`` over the last axis
probabilities p: ``p ** (1 / T)``, made to add up to 1 over the last axis; as they are for T = 1
class         the index of a class: 1 for this class, 0 for all others
values        as they are
============= ==================================================================================

T is the member's temperature (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
A row that can't be understood so becomes NaN, which is its member's failure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.runtime.spec import InstanceSpec

__all__ = ["interpreter", "one_hot", "probabilities", "tempered"]

Array = npt.NDArray[Any]


def interpreter(spec: InstanceSpec) -> Callable[[Array], Array]:
    """Return what turns this instance's raw outputs [rows, ...] into predictions [rows, ...]."""
    if spec.meaning == "logits":
        return partial(probabilities, temperature=spec.temperature)
    if spec.meaning == "probabilities" and spec.temperature != 1:
        return partial(tempered, temperature=spec.temperature)
    if spec.meaning == "class":
        return partial(one_hot, classes=spec.classes)
    return lambda raw: raw


def probabilities(logits: Array, temperature: float = 1.0) -> Array:
    """Softmax over the last axis, in FP32 or wider.

    Args:
        logits: [rows, *outputs]; -inf has probability 0.
        temperature: positive; divides the logits.
    """
    values = _wide(logits)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite logits become NaN: a failed row
        shifted = values - np.maximum.reduce(values, axis=-1, keepdims=True)
        if temperature != 1:
            shifted /= temperature
        return _normalised(np.exp(shifted, out=shifted))


def tempered(given: Array, temperature: float) -> Array:
    """``p ** (1 / temperature)``, made to add up to 1 over the last axis, in FP32 or wider.

    Args:
        given: probabilities, [rows, *outputs].
        temperature: positive; below 1 sharpens, above 1 softens.
    """
    values = _wide(given)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Of the largest: so no power of all of them is too small to be told from 0.
        return _normalised((values / values.max(axis=-1, keepdims=True)) ** (1 / temperature))


def one_hot(indices: Array, classes: int) -> npt.NDArray[np.float32]:
    """1 for the class of each row and 0 for the others; NaN for a row that names no class.

    Args:
        indices: whole numbers, [rows] or [rows, 1].
        classes: how many there are.

    Returns:
        FP32 [rows, classes].
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
