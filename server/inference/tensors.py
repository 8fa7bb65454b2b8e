"""Tensors between the wire and NumPy: typed lists, raw little-endian bytes, length-prefixed BYTES.

Runs in the front-end, under every protocol; pure. All sizes are checked before anything is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import DTYPES, WireError, split_elements

from server.errors import InvalidRequest
from server.inference.time_slicer import Steps

__all__ = [
    "InputTensor",
    "tensor_from_bytes",
    "tensor_from_pieces",
    "tensor_from_values",
]

_BYTES = "BYTES"
_BF16 = "BF16"
_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 1 << 48
#: Each takes an object, and half a microsecond; a body could hold millions of empty ones.
_MAX_BYTES_ELEMENTS = 1 << 14


class InputTensor:
    """An input as it came: `array` for fixed-size datatypes, `elements` for BYTES, row-major.

    Attributes:
        name: the input's name.
        datatype: the protocol's name of its element type.
        shape: with the batch dimension first.
        array: [*shape], None for BYTES.
        elements: of BYTES, else empty.
    """

    __slots__ = ("array", "datatype", "elements", "name", "shape")

    def __init__(
        self,
        name: str,
        datatype: str,
        shape: Sequence[int],
        array: npt.NDArray[np.generic] | None = None,
        elements: Sequence[bytes | memoryview] = (),
    ) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.array = array
        self.elements = elements


def _count(name: str, shape: Sequence[int]) -> int:
    for size in shape:
        if size < 0:
            raise InvalidRequest(f"input {name!r}: shape {list(shape)} has a negative dimension")
    # NumPy refuses these even where a zero among them makes the tensor empty.
    if len(shape) > _MAX_DIMENSIONS or math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise InvalidRequest(f"input {name!r}: shape {list(shape)} is beyond all bounds")
    return math.prod(shape)


def _dtype(name: str, datatype: str) -> np.dtype[np.generic]:
    try:
        return DTYPES[datatype]
    except KeyError:
        raise InvalidRequest(f"input {name!r}: datatype {datatype!r} is not supported") from None


def tensor_from_bytes(
    name: str, datatype: str, shape: Sequence[int], data: memoryview | bytes
) -> InputTensor:
    """Make a tensor of its raw bytes, without a copy.

    Args:
        name: the input's name.
        datatype: its element type.
        shape: with the batch dimension first.
        data: little-endian, row-major; BYTES elements each have their length (uint32) before them.

    Raises:
        InvalidRequest: if datatype, shape and size don't fit together.
    """
    count = _count(name, shape)
    if datatype == _BYTES:
        return InputTensor(name, datatype, shape, elements=_split(name, data, count))
    dtype = _dtype(name, datatype)
    if count * dtype.itemsize != len(data):
        raise InvalidRequest(
            f"input {name!r}: {len(data)} bytes of data, but {datatype} {list(shape)} "
            f"takes {count * dtype.itemsize}"
        )
    return InputTensor(name, datatype, shape, np.frombuffer(data, dtype).reshape(shape))


def _split(name: str, data: memoryview | bytes, count: int) -> list[memoryview]:
    if count > _MAX_BYTES_ELEMENTS:
        raise InvalidRequest(f"input {name!r}: more than {_MAX_BYTES_ELEMENTS} elements of BYTES")
    try:
        return split_elements(data, count)
    except WireError as error:
        raise InvalidRequest(f"input {name!r}: {error}") from None


def tensor_from_values(name: str, datatype: str, shape: Sequence[int], values: Any) -> InputTensor:
    """Make a tensor of JSON values, nested or flat, row-major.

    Raises:
        InvalidRequest: if datatype, shape and values don't fit together.
    """
    count = _count(name, shape)
    if datatype == _BYTES:
        texts = _flat_texts(name, values)
        if len(texts) != count:
            raise InvalidRequest(
                f"input {name!r}: {len(texts)} elements, but the shape says {count}"
            )
        return InputTensor(name, datatype, shape, elements=texts)
    dtype = _json_dtype(name, datatype)
    try:
        raw = np.asarray(values)
        if raw.dtype.kind == "f" and datatype == "UINT64":
            # NumPy takes a mixture of numbers below and above 2**63 for floats.
            exact = np.asarray(values, object)
            if all(type(value) is int for value in exact.flat):
                raw = exact.astype(np.uint64)
    except (ValueError, OverflowError, RecursionError):
        raise _irregular(name) from None
    _check_size(name, shape, raw.size, count)
    return InputTensor(name, datatype, shape, _convert(name, datatype, dtype, raw).reshape(shape))


def tensor_from_pieces(
    name: str, datatype: str, shape: Sequence[int], pieces: Sequence[npt.NDArray[np.generic]]
) -> Steps[InputTensor]:
    """Make a tensor of JSON values that come in pieces, as `tensor_from_values` would of the whole.

    Args:
        name: the input's name.
        datatype: its element type.
        shape: with the batch dimension first.
        pieces: flat, each of the simple type that NumPy finds in its values; at least one.

    Raises:
        InvalidRequest: if datatype, shape and values don't fit together.
    """
    count = _count(name, shape)
    if datatype == _BYTES:
        raise _no_texts(name)
    dtype = _json_dtype(name, datatype)
    common: np.dtype[np.generic] = np.result_type(*{piece.dtype for piece in pieces})
    are_whole = all(piece.dtype.kind in "biu" for piece in pieces)
    if common.kind == "f" and datatype == "UINT64" and are_whole:
        # As above: there are pieces below and above 2**63.
        if any(int(piece.min()) < 0 for piece in pieces):
            raise _irregular(name)
        common = dtype
    _check_size(name, shape, sum(piece.size for piece in pieces), count)
    array = np.empty(count, dtype)
    position = 0
    for piece in pieces:
        converted = _convert(name, datatype, dtype, piece.astype(common, copy=False))
        array[position : position + piece.size] = converted
        position += piece.size
        yield
    return InputTensor(name, datatype, shape, array.reshape(shape))


def _json_dtype(name: str, datatype: str) -> np.dtype[np.generic]:
    if datatype == _BF16:
        raise InvalidRequest(f"input {name!r}: {_BF16} is sent as binary data, not in JSON")
    return _dtype(name, datatype)


def _check_size(name: str, shape: Sequence[int], size: int, count: int) -> None:
    if size != count:
        raise InvalidRequest(
            f"input {name!r}: {size} elements of data, but the shape {list(shape)} says {count}"
        )


def _irregular(name: str) -> InvalidRequest:
    return InvalidRequest(f"input {name!r}: data is not a regular array of numbers")


def _no_texts(name: str) -> InvalidRequest:
    return InvalidRequest(f"input {name!r}: BYTES in JSON are strings")


def _flat_texts(name: str, values: Any) -> list[bytes]:
    texts: list[bytes] = []
    stack = [values]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(reversed(value))
        elif isinstance(value, str):
            texts.append(value.encode())
        else:
            raise _no_texts(name)
    return texts


def _convert(
    name: str, datatype: str, dtype: np.dtype[np.generic], raw: npt.NDArray[Any]
) -> npt.NDArray[np.generic]:
    wanted, given = dtype.kind, raw.dtype.kind
    if raw.size == 0:
        return raw.astype(dtype)
    if not (
        wanted == given or (wanted == "f" and given in "iu") or (wanted in "iu" and given in "iu")
    ):
        raise InvalidRequest(f"input {name!r}: its data does not consist of {datatype} values")
    if wanted in "iu":
        limits = np.iinfo(dtype.str)
        if int(raw.min()) < limits.min or int(raw.max()) > limits.max:
            raise InvalidRequest(f"input {name!r}: a value is out of the range of {datatype}")
    with np.errstate(over="ignore"):
        converted = raw.astype(dtype)
    if wanted == "f" and not np.isfinite(converted).all():  # JSON has no infinity of its own
        raise InvalidRequest(f"input {name!r}: a value is out of the range of {datatype}")
    return converted
