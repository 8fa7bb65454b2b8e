"""Writes a model's outputs into the arena: as predictions of the members' areas.

Runs in the worker. The arrays of `Model.predict` flow in, predictions that can be combined flow
into the arena, and which rows of them are no predictions flows out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.runtime.spec import OutputSpec
from workers.worker.padding import Part, beyond
from workers.worker.postprocess import postprocessor

__all__ = ["ModelOutput"]

Array = npt.NDArray[Any]


class ModelOutput:
    """One output of a model, written to its prediction `area`, [slots, *shape].

    `merge` makes one prediction of those of a row's variants, with test-time augmentation.
    Dimensions that vary (`symbols` are the arena's) are as large in the area as the largest row.

    Attributes:
        invalid: what is wrong with a row that `write` finds.
        nan: what is wrong with a row that is NaN.
    """

    def __init__(
        self,
        spec: OutputSpec,
        name: str,
        area: Array,
        *,
        merge: Callable[[Array], Array] | None = None,
        symbols: Sequence[str] = (),
    ) -> None:
        self._area = area
        self._shape = area.shape[1:]
        self._name = name
        postprocess = postprocessor(spec)
        self._postprocess = postprocess if merge is None else lambda raw: merge(postprocess(raw))
        self._is_padded = spec.is_padded
        #: Each variable axis of a row, with the number of its symbol.
        self._axes = [
            (axis, symbols.index(symbol)) for axis, symbol in enumerate(spec.symbols) if symbol
        ]
        self._is_values = spec.kind == "values"
        no_interpretation = {
            "class": f"a class that is none of 0 to {spec.classes - 1}",
            "normal": "a variance that is negative, or a number that is not finite,",
            "binary": "a probability that is not from 0 to 1 (for logits, use binary_logits)",
        }.get(spec.kind)
        self.invalid = no_interpretation or "not a finite number"
        self.nan = no_interpretation or "NaN"

    def prepare(self, raw: Array, rows: int, part: Part | None = None) -> Array:
        """Return the predictions of so many rows, [rows, *shape].

        Where sizes vary, they are those of the `part`, as far as the area has space; what is beyond
        a row's own sizes is 0.

        Raises:
            RuntimeError: if the model's output has another shape.
        """
        if self._is_padded and raw.ndim == len(self._shape) + 1:
            raw = _pad(raw, self._shape)
        predictions = self._postprocess(raw)
        if not self._axes:
            part = None
        shape = self._shape if part is None else self._shape_of(part)
        if predictions.shape != (rows, *shape):  # NumPy might broadcast it over other rows
            raise RuntimeError(
                f"answers {list(predictions.shape)} to a batch of {rows} rows in its output "
                f"{self._name!r}, not {[rows, *shape]}"
            )
        return predictions if part is None else self._without_padding(predictions, part)

    def _shape_of(self, part: Part) -> tuple[int, ...]:
        shape = list(self._shape)
        for axis, number in self._axes:
            shape[axis] = part.sizes[number]
        return tuple(shape)

    def _without_padding(self, predictions: Array, part: Part) -> Array:
        predictions = predictions[(slice(None), *map(slice, self._shape))]
        for axis, number in self._axes:
            own = part.own[number]
            if (own != predictions.shape[axis + 1]).any():
                outside = beyond(own, axis, predictions.shape[1:])
                predictions = np.where(outside, 0, predictions)
        return predictions

    def write(
        self, slots: slice | npt.NDArray[np.int64], predictions: Array
    ) -> npt.NDArray[np.bool_] | None:
        """Store predictions in the arena.

        Returns:
            Which rows have NaN, or infinity where it makes no sense; None if none do.
        """
        if self._axes:
            self._area[(slots, *map(slice, predictions.shape[1:]))] = predictions
        else:
            self._area[slots] = predictions
        if np.logical_and.reduce(np.isfinite(predictions), axis=None):
            return None
        valid = ~np.isnan(predictions) if self._is_values else np.isfinite(predictions)
        failed = ~np.all(valid.reshape(len(predictions), -1), axis=1)
        return failed if failed.any() else None


def _pad(raw: Array, shape: tuple[int, ...]) -> Array:
    """Return rows of this shape: what is too long is cut, what is too short ends with zeros."""
    if raw.shape[1:] == shape:
        return raw
    padded = np.zeros((len(raw), *shape), raw.dtype)
    common = tuple(
        slice(min(own, wanted)) for own, wanted in zip(raw.shape[1:], shape, strict=True)
    )
    padded[:, *common] = raw[:, *common]
    return padded
