"""The sizes of a request's rows, where they vary: checked, and the length class that holds them.

Runs in the front-end, under every protocol; pure. Tensors whose datatypes and fixed dimensions are
checked flow in; the model of a class, and the sizes as they are stored in the arena, flow out.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import le

import numpy as np

from server.engine.spec import ServedModel
from server.errors import InvalidRequest
from server.inference.spec import ModelSpec
from server.inference.tensors import InputTensor
from workers.runtime.arena import Cells
from workers.runtime.spec import TensorSpec

__all__ = ["bind_sizes", "may_vary"]


def may_vary(shape: Sequence[int], spec: TensorSpec) -> bool:
    """Whether the shape of a row differs from an input's in variable dimensions only."""
    return len(shape) == len(spec.shape) and all(
        own in (-1, size) for size, own in zip(shape, spec.shape, strict=True)
    )


def bind_sizes(
    model: ModelSpec, tensors: Sequence[InputTensor], rows: int, members: int
) -> tuple[ServedModel, Cells]:
    """Return the smallest length class that holds all rows, and their sizes, int64 [symbols, rows].

    `members` is a mask of those whose inputs count. Raises `InvalidRequest` if a size is 0, too
    large, or differs from that of an input which has to be equally large.
    """
    given = {tensor.name: tensor for tensor in tensors}
    dims = np.zeros((len(model.symbols), rows), np.int64)
    known: dict[str, str] = {}  # by symbol, the input that it was found at
    for one in model.inputs:
        spec, tensor = one.tensor, given.get(one.tensor.name)
        if tensor is None or not spec.symbols or not one.members & members:
            continue
        if tensor.array is None:
            dims[model.symbols.index(spec.symbols[-1])] = _text_sizes(tensor, rows, spec)
            continue
        for axis, symbol in enumerate(spec.symbols, start=1):
            if symbol:
                size = _checked_size(tensor, axis, spec.limits[symbol])
                cells = dims[model.symbols.index(symbol)]
                first = known.setdefault(symbol, spec.name)
                if first != spec.name and cells[0] != size:
                    raise InvalidRequest(
                        f"input {spec.name!r} has the shape {list(tensor.shape)}: dimension {axis} "
                        f"should be {cells[0]}, as in input {first!r}"
                    )
                cells[:] = size
    largest = dims.max(axis=1).tolist()
    for length in model.lengths:
        if all(map(le, largest, length.bounds)):
            return length.served, dims
    raise AssertionError("the largest class has space for the largest sizes")


def _checked_size(tensor: InputTensor, axis: int, limit: int) -> int:
    size = tensor.shape[axis]
    if not 1 <= size <= limit:
        raise InvalidRequest(
            f"input {tensor.name!r} has the shape {list(tensor.shape)}: dimension {axis} should be "
            f"1 to {limit}"
        )
    return size


def _text_sizes(tensor: InputTensor, rows: int, spec: TensorSpec) -> Cells:
    """The bytes of each row's texts, each with its length before it."""
    sizes = np.fromiter(map(len, tensor.elements), np.int64, len(tensor.elements))
    texts = sizes.reshape(rows, -1).sum(axis=1)
    row, limit = int(texts.argmax()), spec.max_bytes - spec.length_bytes
    if texts[row] > limit:
        raise InvalidRequest(
            f"input {tensor.name!r}: row {row} has {texts[row]} bytes of text, at most {limit} are "
            "allowed"
        )
    encoded: Cells = texts + spec.length_bytes
    return encoded
