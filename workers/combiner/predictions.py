"""Reads the predictions of an ensemble's members as one array in the ensemble's classes.

Runs in the combiner (`ClassMap` in the front-end, too). Each member's predictions in its own
classes flow in, an array for rules and scores flows out. Members with equal classes are adjacent in
the arena and are read without a copy. Others are mapped to the ensemble's classes, where a class
that a member does not know has probability 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.runtime.arena import Arena
from workers.runtime.spec import PredictionSpec

__all__ = ["ClassMap", "Reader", "Selection", "member_predictions"]

Array = npt.NDArray[Any]
#: Some of an ensemble's members, as an index into their predictions.
Selection = slice | list[int]


class ClassMap:
    """Maps one member's classes to the ensemble's.

    `columns` has -1 for those that it does not know; `axis` is that of the classes.
    """

    def __init__(self, columns: Sequence[int], axis: int = -1) -> None:
        index = np.array(columns, np.intp)
        self._unknown = np.flatnonzero(index < 0)
        self._columns = np.maximum(index, 0)
        self._axis = axis

    def write(self, predictions: Array, out: Array) -> None:
        """Write predictions [rows, *outputs] to `out`, whose classes are the ensemble's."""
        if predictions.dtype == out.dtype:
            # No column is out of bounds: with `clip` NumPy writes without a temporary copy.
            predictions.take(self._columns, axis=self._axis, out=out, mode="clip")
        else:
            out[...] = predictions.take(self._columns, axis=self._axis)
        if len(self._unknown):
            np.moveaxis(out, self._axis, 1)[:, self._unknown] = 0


class _Adjacent:
    """Members with the same outputs, which share a block of the arena."""

    def __init__(self, arena: Arena, spec: PredictionSpec) -> None:
        index = next(
            i for i, block in enumerate(arena.spec.blocks) if set(spec.areas) <= set(block.areas)
        )
        self._block = arena.blocks[index]
        self._places = [arena.spec.blocks[index].areas.index(area) for area in spec.areas]

    def select(self, positions: list[int]) -> Selection:
        """Return a slice if the members are adjacent, which costs no copy."""
        places = [self._places[i] for i in positions]
        first = places[0]
        adjacent = places == list(range(first, first + len(places)))
        return slice(first, first + len(places)) if adjacent else places

    def read(self, selection: Selection, slots: slice) -> Array:
        """Return a view of the block if the members are adjacent, else a copy."""
        return self._block[selection, slots]


class _Mapped:
    """Members with different classes, or another order of them."""

    def __init__(self, arena: Arena, spec: PredictionSpec) -> None:
        self._output = spec.tensor
        self._maps = [ClassMap(columns, spec.class_axis) for columns in spec.columns]
        self._areas = [arena.predictions[area] for area in spec.areas]

    def select(self, positions: list[int]) -> Selection:
        """Return the positions unchanged."""
        return positions

    def read(self, selection: Selection, slots: slice) -> Array:
        """Gather the members' predictions in the ensemble's classes."""
        assert isinstance(selection, list)
        shape = (len(selection), slots.stop - slots.start, *self._output.stored_shape)
        gathered = np.empty(shape, self._output.dtype)
        for member, out in zip(selection, gathered, strict=True):
            self._maps[member].write(self._areas[member][slots], out)
        return gathered


Reader = _Adjacent | _Mapped


def member_predictions(arena: Arena, spec: PredictionSpec) -> Reader:
    """Return the reader of an output of an ensemble's members in an arena.

    Its `select` takes positions in the ensemble, at least one. Its `read` returns the predictions
    of rows, not to be modified: [members, rows, *outputs].
    """
    return _Mapped(arena, spec) if spec.columns else _Adjacent(arena, spec)
