"""Variable dimensions of a model: their largest sizes, and which outputs follow which inputs.

Runs in workers and in inspection; pure. A file says which dimensions are variable, the
configuration how large they may be; runs at several sizes show which dimensions of the outputs are
equal to one of an input's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from workers.runtime.spec import InputLimit, TensorSpec, symbols_of

__all__ = [
    "SizesError",
    "bounded_inputs",
    "following_output",
    "plain_rows",
    "probe_sizes",
    "repeated",
]

Array = npt.NDArray[Any]

_BYTES = "BYTES"


class SizesError(ValueError):
    """The sizes of a model's inputs or outputs can't be served; the text is one line."""


def bounded_inputs(
    member: str, inputs: Sequence[TensorSpec], limits: Sequence[InputLimit]
) -> tuple[TensorSpec, ...]:
    """Return inputs with the largest size of each variable dimension.

    Args:
        member: its name in the configuration.
        inputs: as the model describes them, 0 in `max_shape` and `max_bytes` where it names no
            largest size.
        limits: those of the configuration.

    Raises:
        SizesError: if a size is missing, or contradicts the model or another one.
    """
    configured = {limit.name: limit for limit in limits}
    keys = {tensor.name: f"members.{member}.inputs.{tensor.name}" for tensor in inputs}
    sizes: dict[str, int] = {}
    for tensor in inputs:
        limit = configured.get(tensor.name, InputLimit(tensor.name))
        for symbol, size in _limits(keys[tensor.name], tensor, limit).items():
            if size and sizes.setdefault(symbol, size) != size:
                raise SizesError(
                    f"{keys[tensor.name]}.max_shape: {size}, but {sizes[symbol]} for the same "
                    f"dimension ({symbol}) of another input"
                )
    for tensor in inputs:
        for axis, symbol in enumerate(tensor.symbols, start=1):
            if symbol and symbol not in sizes:
                raise SizesError(
                    f"dimension {axis} of input {tensor.name!r} is variable ({symbol}): give its "
                    f"largest size by {keys[tensor.name]}.max_shape"
                )
    named = [_with_bytes(tensor) for tensor in inputs]
    return tuple(tensor.sized(sizes) for tensor in named)


def _with_bytes(tensor: TensorSpec) -> TensorSpec:
    """Name the number of bytes of BYTES by a symbol."""
    if tensor.datatype != _BYTES:
        return tensor
    symbols = (*("" for _ in tensor.shape), f"{tensor.name}.bytes")
    return msgspec.structs.replace(tensor, symbols=symbols)


def _limits(key: str, tensor: TensorSpec, limit: InputLimit) -> dict[str, int]:
    """Return the largest sizes by symbol, 0 where none is known."""
    axes = [axis for axis, size in enumerate(tensor.shape) if size < 0]
    if tensor.datatype == _BYTES:
        if axes:
            raise SizesError(f"input {tensor.name!r} is BYTES with a variable dimension")
        most = limit.max_bytes or tensor.max_bytes
        if not most:
            raise SizesError(
                f"input {tensor.name!r} is BYTES: give the most bytes of a row by {key}.max_bytes"
            )
        return {f"{tensor.name}.bytes": most + tensor.length_bytes}
    if limit.max_bytes:
        raise SizesError(f"{key}.max_bytes: is for BYTES, the model takes {tensor.datatype}")
    own = tensor.limits if tensor.max_shape else {}
    given = _matched(key, tensor, axes, limit.max_shape)
    for symbol, size in given.items():
        if 0 < own.get(symbol, 0) < size:
            raise SizesError(f"{key}.max_shape: {size}, but the model takes {own[symbol]} at most")
    return own | given


def _matched(
    key: str, tensor: TensorSpec, axes: Sequence[int], given: Sequence[int]
) -> dict[str, int]:
    """Match a configured `max_shape`, of all dimensions or of the variable ones, to symbols."""
    if not given:
        return {}
    if not axes:
        raise SizesError(f"{key}.max_shape: the model's input is fixed, {list(tensor.shape)}")
    if len(given) == len(tensor.shape):
        fits = all(size in (-1, own) for size, own in zip(tensor.shape, given, strict=True))
        chosen = [given[axis] for axis in axes]
    else:
        fits, chosen = len(given) == len(axes), list(given)
    if not fits:
        raise SizesError(
            f"{key}.max_shape: {list(given)} does not fit the model's {list(tensor.shape)}, give "
            "one size for each -1"
        )
    return dict(zip((tensor.symbols[axis] for axis in axes), chosen, strict=True))


def probe_sizes(inputs: Sequence[TensorSpec]) -> list[dict[str, int]]:
    """Return the sizes to run a model at: the largest, then with one dimension halved at a time."""
    largest: dict[str, int] = {}
    for tensor in inputs:
        largest |= tensor.limits
    variable = symbols_of([tensor for tensor in inputs if tensor.datatype != _BYTES])
    halves = [{symbol: -(-largest[symbol] // 2)} for symbol in variable]
    return [largest, *(largest | half for half in halves)]


def plain_rows(tensor: TensorSpec, rows: int) -> Array:
    """Return rows of the largest size that any model should take.

    They are zeros; empty elements of BYTES; but ones for whole numbers of variable size, since a
    mask of zeros would leave nothing of the row.
    """
    if tensor.datatype == _BYTES:
        return np.full((rows, *tensor.shape), b"", object)
    shape = (rows, *tensor.stored_shape)
    is_like_mask = bool(tensor.symbols) and tensor.dtype.kind in "iub"
    return np.ones(shape, tensor.dtype) if is_like_mask else np.zeros(shape, tensor.dtype)


def repeated(example: Array, shape: Sequence[int]) -> Array:
    """Return an example [1, ...] as rows of another size, of which it is repeated or cut."""
    for axis, size in enumerate(shape):
        if size != example.shape[axis]:
            example = example.take(np.arange(size) % example.shape[axis], axis)
    return np.ascontiguousarray(example)


def following_output(
    output: TensorSpec, shapes: Sequence[tuple[int, ...]], sizes: Sequence[Mapping[str, int]]
) -> TensorSpec:
    """Return an output, variable where it is as large as an input.

    Args:
        output: as found at the largest sizes.
        shapes: its shape at each of the sizes, without the batch dimension.
        sizes: those of `probe_sizes`, by symbol.

    Raises:
        SizesError: if a dimension varies, but is not equal to one of an input.
    """
    symbols = tuple(
        _followed(output, axis, [shape[axis] for shape in shapes], sizes)
        for axis in range(len(output.shape))
        if all(len(shape) == len(output.shape) for shape in shapes)
    )
    if len(symbols) < len(output.shape):
        raise SizesError(f"output {output.name!r} has another number of dimensions for each size")
    if not any(symbols):
        return output
    shape = tuple(
        -1 if symbol else size for size, symbol in zip(output.shape, symbols, strict=True)
    )
    return TensorSpec(output.name, output.datatype, shape, output.shape, symbols)


def _followed(
    output: TensorSpec, axis: int, found: Sequence[int], sizes: Sequence[Mapping[str, int]]
) -> str:
    """Return the symbol that a dimension of an output is equal to, "" if it is fixed."""
    if len(set(found)) == 1:
        return ""
    for symbol in sizes[0]:
        if all(size == at[symbol] for size, at in zip(found, sizes, strict=True)):
            return symbol
    listed = ", ".join(map(str, found))
    raise SizesError(
        f"dimension {axis + 1} of output {output.name!r} varies ({listed}) with the input's sizes, "
        "but is not equal to one of them: have the model pool it, or give its largest shape by "
        "max_shape under the member's outputs"
    )
