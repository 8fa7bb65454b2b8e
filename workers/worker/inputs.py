"""Prepares a model's inputs from the rows in the arena: scales pixels, converts types.

Runs in the worker; pure. Rows of the arena flow in, the arrays for `Model.predict` flow out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import DTYPES, join_elements

from workers.runtime.spec import Scaling, TensorSpec

__all__ = ["ModelInput", "convert", "example_row", "scale"]

Array = npt.NDArray[Any]

_BF16 = "BF16"
_WORD = b"word "


class ModelInput:
    """One input of a model: rows of a view [slots, ...], scaled and converted to its datatype.

    `augment` makes the variants of stored rows of a member with test-time augmentation.
    """

    def __init__(
        self,
        view: Array,
        stored: str,
        scaling: Scaling | None,
        datatype: str,
        augment: Callable[[Array], Array] | None = None,
    ) -> None:
        self._view: Any = view
        self._stored = stored
        self._scaling = scaling
        self._datatype = datatype
        self._augment = augment
        self._is_stored = scaling is None and stored == datatype and augment is None

    def read(self, slots: slice | npt.NDArray[np.int64]) -> Array:
        """Return the input for some rows; a view of the arena if nothing has to be converted."""
        rows: Array = self._view[slots]
        return rows if self._is_stored else self.prepare(rows)

    def random(self, rows: int, generator: np.random.Generator) -> Array:
        """Return a plausible input: pixels and floats are random, other numbers are 0."""
        shape, dtype = (rows, *self._view.shape[1:]), self._view.dtype
        if self._scaling is not None:
            return self.prepare(generator.integers(0, 256, shape, np.uint8))
        if np.issubdtype(dtype, np.floating):
            return self.prepare(generator.random(shape, np.float32).astype(dtype))
        return self.prepare(np.zeros(shape, dtype))

    def prepare(self, rows: Array) -> Array:
        """Return stored rows as the model takes them."""
        if self._augment is not None:
            rows = self._augment(rows)
        if self._scaling is not None:
            return convert(scale(rows, self._scaling), "FP32", self._datatype)
        return convert(rows, self._stored, self._datatype)


def example_row(spec: TensorSpec, generator: np.random.Generator) -> Array:
    """Return a plausible row of the largest size, as it is stored.

    Bytes and floats are random, other numbers 0, but 1 where the size is variable (see
    `workers.backends.sizes`); texts are words.
    """
    shape, dtype = spec.stored_shape, spec.dtype
    if spec.datatype == "BYTES":
        return _example_texts(spec)
    if np.issubdtype(dtype, np.floating):
        return generator.random(shape, np.float32).astype(dtype)
    if dtype == np.uint8 and not spec.symbols:
        return generator.integers(0, 256, shape, np.uint8)
    return np.full(shape, bool(spec.symbols), dtype)


def _example_texts(spec: TensorSpec) -> Array:
    """Return texts that are as long as they may be together, as they are stored."""
    count = math.prod(spec.shape)
    letters = spec.max_bytes - spec.length_bytes
    sizes = [letters // count + (number < letters % count) for number in range(count)]
    encoded = join_elements([(_WORD * size)[:size] for size in sizes])
    return np.frombuffer(encoded, np.uint8)


def scale(pixels: Array, scaling: Scaling) -> Array:
    """Turn stored pixels, uint8 [rows, height, width, 3], into FP32 of the scaling's layout."""
    scaled = pixels.astype(np.float32)
    scaled -= np.array(scaling.mean, np.float32)
    scaled *= np.float32(1.0) / np.array(scaling.std, np.float32)
    if scaling.layout == "nchw":
        scaled = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
    return scaled


def convert(values: Array, given: str, wanted: str) -> Array:
    """Convert rows [rows, ...] to the nearest values of another datatype; BF16 is its bits.

    Values too large for the other type become infinite.
    """
    if given == wanted:
        return values
    with np.errstate(over="ignore"):
        if wanted == _BF16:
            return _bf16_bits(convert(values, given, "FP32"))
        if given == _BF16:
            return convert((values.astype(np.uint32) << 16).view(np.float32), "FP32", wanted)
        return values.astype(DTYPES[wanted])


def _bf16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return the upper halves of FP32, rounded to the nearest, ties to even."""
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    # Rounding could turn NaN into infinity or wrap around: keep it NaN.
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
