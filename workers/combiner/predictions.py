"""What an ensemble's members said of some rows, as one array in the ensemble's classes.

Runs in the combiner (and `ClassMap` in the front-end, too). What each worker wrote, in its member's
own classes, flows in; rules and scores take what flows out. Members whose classes agree lie side by
side in the arena and are taken as they are. Others are brought into the ensemble's order, and a
class that a member was never shown has probability 0 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workers.runtime.arena import Arena
from workers.runtime.spec import EnsembleSpec

__all__ = ["ClassMap", "Predictions", "Where", "predictions_of"]

Array = npt.NDArray[Any]
Where = slice | list[int]


class Predictions(Protocol):
    """The predictions of one ensemble's members."""

    def where(self, chosen: list[int]) -> Where:
        """Turn positions among the ensemble's members (at least one) into what `take` wants."""
        ...

    def take(self, where: Where, slots: slice) -> Array:
        """What these members say of rows, not to be modified: [members, rows, *outputs]."""
        ...


def predictions_of(arena: Arena, spec: EnsembleSpec) -> Predictions:
    """The predictions of an ensemble's members, wherever they lie."""
    return _Mapped(arena, spec) if spec.columns else _Adjacent(arena, spec)


class ClassMap:
    """Where the ensemble's classes lie in one member's output.

    Args:
        columns: for each class of the ensemble its column, -1 where the member does not know it.
    """

    def __init__(self, columns: Sequence[int]) -> None:
        index = np.array(columns, np.intp)
        self._unknown = np.flatnonzero(index < 0)
        self._columns = np.maximum(index, 0)

    def write(self, predictions: Array, out: Array) -> None:
        """Write a member's predictions in the ensemble's classes.

        Args:
            predictions: [rows, classes of the member].
            out: [rows, classes of the ensemble], of a type that holds them.
        """
        if predictions.dtype == out.dtype:
            # No column is out of bounds: clipping just lets NumPy write without a copy of its own.
            predictions.take(self._columns, axis=1, out=out, mode="clip")
        else:
            out[...] = predictions.take(self._columns, axis=1)
        if len(self._unknown):
            out[:, self._unknown] = 0


class _Adjacent:
    """All members have the same outputs, so that they share a block of the arena."""

    def __init__(self, arena: Arena, spec: EnsembleSpec) -> None:
        index = next(
            i
            for i, block in enumerate(arena.spec.blocks)
            if set(spec.members) <= set(block.members)
        )
        self._block = arena.blocks[index]
        self._positions = [arena.spec.blocks[index].members.index(m) for m in spec.members]

    def where(self, chosen: list[int]) -> Where:
        """A slice where they are adjacent: it costs no copy."""
        positions = [self._positions[i] for i in chosen]
        first = positions[0]
        adjacent = positions == list(range(first, first + len(positions)))
        return slice(first, first + len(positions)) if adjacent else positions

    def take(self, where: Where, slots: slice) -> Array:
        """See `Predictions`."""
        return self._block[where, slots]


class _Mapped:
    """Members know different classes, or order them differently."""

    def __init__(self, arena: Arena, spec: EnsembleSpec) -> None:
        self._output = spec.predicted
        self._maps = [ClassMap(columns) for columns in spec.columns]
        self._areas = [arena.predictions[member] for member in spec.members]

    def where(self, chosen: list[int]) -> Where:
        """As they are."""
        return chosen

    def take(self, where: Where, slots: slice) -> Array:
        """See `Predictions`."""
        assert isinstance(where, list)
        shape = (len(where), slots.stop - slots.start, *self._output.shape)
        gathered = np.empty(shape, self._output.dtype)
        for member, out in zip(where, gathered, strict=True):
            self._maps[member].write(self._areas[member][slots], out)
        return gathered
