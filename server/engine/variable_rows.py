"""Writes rows with variable dimensions into their slots, each with its own sizes.

Runs in the front-end, under `arena_requests`. The bytes of a request's inputs and the sizes of its
rows flow into the views and `dims` cells of the arena. Tensors of one request have equal sizes;
texts (BYTES) are stored in the protocol's encoding and may differ from row to row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from server.engine.request import Request
from workers.runtime.arena import Arena, Array, Cells
from workers.runtime.spec import TensorSpec

__all__ = ["VariableRows"]

#: Writes rows from the `offset`-th on: (slots, data of the whole request, its dims, offset).
_Write = Callable[[slice, memoryview, Cells, int], None]


class VariableRows:
    """The views of an arena whose rows differ in size."""

    def __init__(self, arena: Arena) -> None:
        self._dims = arena.dims
        self._index = {symbol: number for number, symbol in enumerate(arena.spec.symbols)}
        views = list(zip(arena.spec.views, arena.views, strict=True))
        self._writes = [self._writer(spec, view) for spec, view in views]
        self._masks = [(number, *views[number]) for number in arena.spec.masks]

    def write(self, request: Request, slot: int, offset: int, count: int) -> None:
        """Write `count` rows of a request, from its `offset`-th, into the slots from `slot` on."""
        dims = request.prepared.dims
        assert dims is not None, "the rows of such an arena have sizes"
        slots = slice(slot, slot + count)
        self._dims[:, slots] = dims[:, offset : offset + count]
        for view, data in request.inputs:
            self._writes[view](slots, data, dims, offset)
        sent = [view for view, _ in request.inputs]
        for view, spec, stored in self._masks:
            if view not in sent:
                stored[(slots, *map(slice, self._row_shape(spec, dims)))] = 1

    def _writer(self, spec: TensorSpec, view: Array) -> _Write:
        if spec.datatype == "BYTES":
            flat = view.view(np.uint8).reshape(-1).data
            return partial(_write_texts, flat, spec.max_bytes, self._index[spec.symbols[-1]])
        return partial(self._write_tensor, spec, view)

    def _row_shape(self, spec: TensorSpec, dims: Cells) -> tuple[int, ...]:
        if not spec.symbols:
            return spec.shape
        return tuple(
            int(dims[self._index[symbol], 0]) if symbol else size
            for size, symbol in zip(spec.shape, spec.symbols, strict=True)
        )

    def _write_tensor(
        self, spec: TensorSpec, view: Any, slots: slice, data: memoryview, dims: Cells, offset: int
    ) -> None:
        shape = self._row_shape(spec, dims)
        rows = np.frombuffer(data, spec.dtype).reshape(-1, *shape)
        view[(slots, *map(slice, shape))] = rows[offset : offset + slots.stop - slots.start]


def _write_texts(
    flat: memoryview,
    stride: int,
    symbol: int,
    slots: slice,
    data: memoryview,
    dims: Cells,
    offset: int,
) -> None:
    sizes = dims[symbol].tolist()
    start = sum(sizes[:offset])
    for slot, size in zip(range(slots.start, slots.stop), sizes[offset:], strict=False):
        flat[slot * stride : slot * stride + size] = data[start : start + size]
        start += size
