"""Input tensors from their bytes: raw little-endian, or length-prefixed elements of BYTES.

Runs in the front-end, under every protocol; pure. Bytes from the wire flow in, NumPy arrays without
a copy flow out. All sizes are checked before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import DTYPES, WireError, split_elements

from server.errors import InvalidRequest

__all__ = [
    "InputTensor",
    "count_elements",
    "find_dtype",
    "tensor_from_bytes",
]

_BYTES = "BYTES"
_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 1 << 48
#: Each costs an object and half a microsecond; a body could hold millions of empty ones.
_MAX_BYTES_ELEMENTS = 1 << 14


class InputTensor:
    """An input of a request: `array` for fixed-size datatypes, `elements` for BYTES, row-major.

    `datatype` is the protocol's name; `shape` has the batch dimension first; `array` is [*shape],
    None for BYTES.
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


def count_elements(name: str, shape: Sequence[int]) -> int:
    """The number of elements of a tensor; raises `InvalidRequest` if the shape is invalid."""
    for size in shape:
        if size < 0:
            raise InvalidRequest(f"input {name!r}: shape {list(shape)} has a negative dimension")
    # NumPy refuses these even where a zero among them makes the tensor empty.
    if len(shape) > _MAX_DIMENSIONS or math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise InvalidRequest(f"input {name!r}: shape {list(shape)} is too large")
    return math.prod(shape)


def find_dtype(name: str, datatype: str) -> np.dtype[np.generic]:
    """The NumPy type of a datatype; raises `InvalidRequest` if it is unknown."""
    try:
        return DTYPES[datatype]
    except KeyError:
        raise InvalidRequest(f"input {name!r}: datatype {datatype!r} is not supported") from None


def tensor_from_bytes(
    name: str, datatype: str, shape: Sequence[int], data: memoryview | bytes
) -> InputTensor:
    """Make a tensor from its raw bytes, without a copy.

    They are little-endian and row-major; BYTES elements are each preceded by their length (uint32).
    The shape has the batch dimension first. Raises `InvalidRequest` if datatype, shape and size
    don't fit together.
    """
    count = count_elements(name, shape)
    if datatype == _BYTES:
        return InputTensor(name, datatype, shape, elements=_split(name, data, count))
    dtype = find_dtype(name, datatype)
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
