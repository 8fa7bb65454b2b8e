"""Prepares a model's inputs from rows of different sizes: padded, or in parts of equal sizes.

Runs in the worker. Rows of the arena and their `dims` flow in; the arrays for `Model.predict` flow
out, in one part or several. With a value to pad with, rows are padded to the longest of their part,
or to a bucket. Where two dimensions vary, rows are sorted first and divided, so that padding at
most doubles a part. Without a value, a part's rows have equal sizes. Texts need no padding.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import bytes_array, split_elements

from workers.runtime.arena import Arena, Cells
from workers.runtime.spec import Binding, InstanceSpec, symbols_of
from workers.worker.inputs import ModelInput, convert, example_row

__all__ = ["Part", "VariableInputs", "beyond", "bounded_groups", "equal_groups"]

Array = npt.NDArray[Any]
#: Rows of the arena, as an index.
Slots = slice | npt.NDArray[np.int64]
_MOST_PADDING = 2.0


#: Reads an input of a part's rows from the views of an arena.
_Reader = Callable[[Sequence[Any], "Part"], Array]


class Part(NamedTuple):
    """Rows that are predicted in one run of the model.

    Attributes:
        positions: in the batch.
        own: the sizes of each row, in the order of the arena's symbols: int64 [symbols, rows].
        sizes: those that all rows get, in the same order.
    """

    positions: Slots
    slots: Slots
    own: Cells
    sizes: Sequence[int]


class VariableInputs:
    """The inputs of a model of which at least one varies in size from row to row."""

    def __init__(self, spec: InstanceSpec, arena: Arena) -> None:
        self._arena = arena
        self._symbols = arena.spec.symbols
        bound = list(zip(spec.bindings, spec.signature.inputs, strict=True))
        self._readers = [self._reader(binding, tensor.datatype) for binding, tensor in bound]
        views = [arena.spec.views[binding.view] for binding in spec.bindings]
        numbers = [view for view in views if view.datatype != "BYTES"]
        self._shaping = [self._symbols.index(symbol) for symbol in symbols_of(numbers)]
        self._is_padded = any(binding.pad is not None for binding in spec.bindings)
        self._buckets = spec.buckets
        self._views = {binding.view for binding in spec.bindings}

    def parts(self, slots: Slots) -> Iterator[Part]:
        """Yield the parts of a batch, each with all of its rows."""
        own: Cells = self._arena.dims[:, slots]
        shaping = own[self._shaping]
        if (shaping == shaping[:, :1]).all() or (self._is_padded and len(shaping) == 1):
            yield Part(slice(None), slots, own, self._sizes(own))
            return
        every = np.arange(slots.start, slots.stop) if isinstance(slots, slice) else slots
        divided = bounded_groups if self._is_padded else equal_groups
        for positions in divided(shaping):
            group = own[:, positions]
            yield Part(positions, every[positions], group, self._sizes(group))

    def read(self, part: Part) -> list[Array]:
        """Return the inputs of a part's rows."""
        return [read(self._arena.views, part) for read in self._readers]

    def examples(self, rows: int) -> tuple[Part, list[Array]]:
        """Return plausible inputs of the largest sizes, and the part that they would be."""
        generator = np.random.default_rng(0)
        limits: dict[str, int] = {}
        views = [np.empty(0)] * len(self._arena.views)
        for view in self._views:
            spec = self._arena.spec.views[view]
            limits |= spec.limits
            views[view] = np.stack([example_row(spec, generator) for _ in range(rows)])
        own = np.array([[limits.get(symbol, 0)] * rows for symbol in self._symbols])
        part = Part(slice(None), slice(0, rows), own, self._sizes(own))
        return part, [read(views, part) for read in self._readers]

    def _sizes(self, own: Cells) -> list[int]:
        """The sizes that rows with these own ones get."""
        sizes: list[int] = own.max(axis=1).tolist()
        if self._buckets:
            (number,) = self._shaping
            sizes[number] = self._buckets[bisect_left(self._buckets, sizes[number])]
        return sizes

    def _reader(self, binding: Binding, datatype: str) -> _Reader:
        spec, view = self._arena.spec.views[binding.view], binding.view
        if spec.datatype == "BYTES":
            number = self._symbols.index(spec.symbols[-1])
            return lambda views, part: _read_texts(views[view], number, spec.shape, part)
        if not spec.symbols:
            fixed = ModelInput(self._arena.views[view], spec.datatype, binding.scaling, datatype)
            return lambda views, part: fixed.prepare(views[view][part.slots])
        numbers = [self._symbols.index(symbol) if symbol else -1 for symbol in spec.symbols]
        pad = convert(np.array([binding.pad or 0.0]), "FP64", spec.datatype)[0]
        return lambda views, part: convert(
            _padded(views[view], numbers, pad, part), spec.datatype, datatype
        )


def _padded(view: Array, numbers: Sequence[int], pad: Any, part: Part) -> Array:
    """Return the rows of a part, padded to its sizes: C-contiguous [rows, *sizes].

    `numbers` are those of the symbols of its dimensions, -1 for fixed ones.
    """
    stored = view.shape[1:]
    shape = [
        size if number < 0 else part.sizes[number]
        for number, size in zip(numbers, stored, strict=True)
    ]
    # A bucket may be larger than the class: then there is less to read than to return.
    inner = tuple(slice(min(size, most)) for size, most in zip(shape, stored, strict=True))
    rows: Array = view[(part.slots, *inner)]
    outside = [
        beyond(part.own[number], axis, shape)
        for axis, number in enumerate(numbers)
        if number >= 0 and (part.own[number] != shape[axis]).any()
    ]
    if not outside:
        return np.ascontiguousarray(rows)
    filled = np.empty((len(rows), *shape), view.dtype)
    filled[(slice(None), *inner)] = rows
    for where in outside:
        np.copyto(filled, pad, where=where)
    return filled


def beyond(own: Cells, axis: int, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Return where a dimension of rows is beyond their own sizes: broadcasts to [rows, *shape]."""
    outside: npt.NDArray[np.bool_] = np.arange(shape[axis]) >= own[:, np.newaxis]
    return outside.reshape(len(own), *(1,) * axis, -1, *(1,) * (len(shape) - axis - 1))


def _read_texts(view: Array, number: int, shape: Sequence[int], part: Part) -> Array:
    """Return the texts of a part's rows: bytes objects, [rows, *shape]."""
    rows = view[part.slots]
    texts = [
        bytes(text)
        for row, size in zip(rows, part.own[number].tolist(), strict=True)
        for text in split_elements(row[:size].data)
    ]
    return bytes_array(texts).reshape(len(rows), *shape)


def equal_groups(own: Cells) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the positions of rows with equal sizes; `own` is [symbols, rows]."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, sizes in enumerate(zip(*own.tolist(), strict=True)):
        groups.setdefault(sizes, []).append(position)
    for positions in groups.values():
        yield np.array(positions)


def bounded_groups(own: Cells) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the positions of rows that padding to the largest of them at most doubles.

    They are sorted by size, the largest first; a group ends before the row with which its padded
    elements would be more than twice its own.
    """
    rows = list(zip(*own.tolist(), strict=True))
    order = sorted(range(len(rows)), key=lambda position: rows[position], reverse=True)
    group: list[int] = []
    largest: Sequence[int] = ()
    elements = 0
    for position in order:
        sizes = rows[position]
        most = tuple(map(max, sizes, largest or sizes))
        own_elements = elements + math.prod(sizes)
        if group and math.prod(most) * (len(group) + 1) > _MOST_PADDING * own_elements:
            yield np.array(group)
            group, most, own_elements = [], sizes, math.prod(sizes)
        group.append(position)
        largest, elements = most, own_elements
    yield np.array(group)
