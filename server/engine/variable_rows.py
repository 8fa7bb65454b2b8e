"""Writes rows with variable dimensions into their slots, each with its own sizes.

Runs in the front-end, under `arena_requests`. The bytes of a request's inputs and the sizes of its
rows flow into the views and `dims` cells of the arena. Tensors of one request have equal sizes;
texts (BYTES) are stored in the protocol's encoding and may differ from row to row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from server.engine.request import Request
from workers.runtime.arena import Arena, Array, Cells
from workers.runtime.spec import TensorSpec

__all__ = ["VariableRows"]


class VariableRows:
    """The views of an arena whose rows differ in size."""

    def __init__(self, arena: Arena) -> None:
        self._dims = arena.dims
        index = {symbol: number for number, symbol in enumerate(arena.spec.symbols)}
        self._views = [
            (_Texts if spec.datatype == "BYTES" else _Tensors)(spec, view, index)
            for spec, view in zip(arena.spec.views, arena.views, strict=True)
        ]
        self._masks = [
            (view, _Tensors(arena.spec.views[view], arena.views[view], index))
            for view in arena.spec.masks
        ]

    def write(self, request: Request, slot: int, offset: int, count: int) -> None:
        """Write `count` rows of a request, from its `offset`-th, into the slots from `slot` on."""
        dims = request.prepared.dims
        assert dims is not None, "the rows of such an arena have sizes"
        slots = slice(slot, slot + count)
        self._dims[:, slots] = dims[:, offset : offset + count]
        for view, data in request.inputs:
            self._views[view].write(slots, data, dims, offset)
        sent = [view for view, _ in request.inputs]
        for view, mask in self._masks:
            if view not in sent:
                mask.fill(slots, dims)


class _Tensors:
    """A view of tensors, of which those of one request have equal sizes."""

    def __init__(self, spec: TensorSpec, view: Any, index: Mapping[str, int]) -> None:
        self._view = view
        self._dtype = spec.dtype
        symbols = spec.symbols or [""] * len(spec.shape)
        self._sizes = [
            (size, index[symbol] if symbol else -1)
            for size, symbol in zip(spec.shape, symbols, strict=True)
        ]

    def write(self, slots: slice, data: memoryview, dims: Cells, offset: int) -> None:
        """Write rows of a request from its `offset`-th; `data` are all of them."""
        shape = self._row_shape(dims)
        rows = np.frombuffer(data, self._dtype).reshape(-1, *shape)
        own = rows[offset : offset + slots.stop - slots.start]
        self._view[(slots, *map(slice, shape))] = own

    def fill(self, slots: slice, dims: Cells) -> None:
        """Fill rows of a request with ones."""
        self._view[(slots, *map(slice, self._row_shape(dims)))] = 1

    def _row_shape(self, dims: Cells) -> list[int]:
        return [size if number < 0 else int(dims[number, 0]) for size, number in self._sizes]


class _Texts:
    """A view of BYTES, in the protocol's encoding."""

    def __init__(self, spec: TensorSpec, view: Array, index: Mapping[str, int]) -> None:
        self._stored = view.view(np.uint8).reshape(-1).data
        self._stride = spec.max_bytes
        self._symbol = index[spec.symbols[-1]]

    def write(self, slots: slice, data: memoryview, dims: Cells, offset: int) -> None:
        """Write rows of a request from its `offset`-th; `data` are all of them."""
        sizes = dims[self._symbol].tolist()
        start = sum(sizes[:offset])
        for slot, size in zip(range(slots.start, slots.stop), sizes[offset:], strict=False):
            begin = slot * self._stride
            self._stored[begin : begin + size] = data[start : start + size]
            start += size
