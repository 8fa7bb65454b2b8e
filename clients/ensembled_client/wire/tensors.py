"""Tensors as raw bytes and as JSON data.

Runs in every process that speaks the protocol; pure. Raw elements are little-endian and row-major;
each element of BYTES has its length (uint32) before it. In arrays, elements of BYTES are objects.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensembled_client.wire.datatypes import DTYPES, Array, WireError

__all__ = [
    "RawTensor",
    "bytes_array",
    "decode_array",
    "decode_json",
    "dump_json",
    "encode_array",
    "encode_json",
    "join_elements",
    "split_elements",
]

_LENGTH = struct.Struct("<I")

#: Writes a document as compact JSON.
dump_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class RawTensor:
    """A tensor whose elements are raw bytes.

    Attributes:
        name: of the input or output.
        datatype: the protocol's, e.g. "FP32".
        shape: [n, ...].
        data: its raw elements.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def encode_array(array: Array) -> bytes | memoryview:
    """Return the raw elements of an array, without a copy where possible.

    Args:
        array: of a dtype in `DTYPES`; or of bytes objects, for BYTES.
    """
    if array.dtype.kind == "O":
        return join_elements(array.ravel())
    contiguous = np.ascontiguousarray(array)
    return contiguous.data.cast("B") if contiguous.size else b""


def decode_array(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Return the array of raw elements.

    Args:
        datatype: one of `DTYPES`, or "BYTES".
        shape: of the result.
        data: the raw elements.

    Returns:
        A read-only view of `data`; for BF16 a float32 array, for BYTES an array of bytes objects.

    Raises:
        WireError: if datatype, shape and size don't fit together.
    """
    if datatype == "BYTES":
        elements = split_elements(data, math.prod(shape))
        return bytes_array([bytes(element) for element in elements]).reshape(shape)
    try:
        array = np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    except KeyError:
        raise WireError(f"unknown datatype {datatype!r}") from None
    except ValueError as error:
        raise WireError(f"{datatype} {list(shape)}: {error}") from None
    if datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4")
    return array


def bytes_array(elements: Sequence[bytes]) -> npt.NDArray[np.object_]:
    """Return a flat array of bytes objects."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def join_elements(elements: Iterable[bytes]) -> bytes:
    """Return the raw form of elements of BYTES."""
    return b"".join([part for one in elements for part in (_LENGTH.pack(len(one)), one)])


def split_elements(
    data: bytes | bytearray | memoryview, count: int | None = None
) -> list[memoryview]:
    """Return the elements of BYTES that raw bytes hold, without a copy.

    Args:
        data: the raw bytes.
        count: how many elements there should be, None for any number.

    Raises:
        WireError: if an element is cut short, or there are more or fewer than `count`.
    """
    view = memoryview(data)
    end, position = len(view), 0
    elements: list[memoryview] = []
    while position < end:
        start = position + _LENGTH.size
        if start > end:
            raise WireError("the data ends within the length of an element")
        position = start + _LENGTH.unpack_from(view, position)[0]
        if position > end:
            raise WireError("an element is cut short: it is longer than the data")
        if len(elements) == count:
            raise WireError(f"more elements than the shape's {count}")
        elements.append(view[start:position])
    if count is not None and len(elements) != count:
        raise WireError(f"{len(elements)} elements, but the shape says {count}")
    return elements


def encode_json(array: Array) -> str:
    """Return the elements of an array, flat and row-major, as the text of a JSON array.

    Floats are written as the shortest text that means the same number of their own dtype.

    Args:
        array: of a dtype in `DTYPES`; or of bytes objects that hold UTF-8.

    Raises:
        WireError: if it holds what JSON can't express.
    """
    flat = array.ravel()
    if array.dtype.kind == "O":
        try:
            return dump_json([element.decode() for element in flat])
        except UnicodeDecodeError:
            raise WireError("holds bytes that are no UTF-8, which JSON can't express") from None
    if array.dtype.kind != "f":
        return dump_json(flat.tolist())
    if not np.isfinite(array).all():
        raise WireError("holds NaN or infinity, which JSON can't express")
    return f"[{','.join(map(str, flat))}]"


def decode_json(datatype: str, shape: Sequence[int], data: Any) -> Array:
    """Return the array of JSON data, nested or flat, as a trusted peer sends it; null is NaN.

    Raises:
        WireError: if datatype, shape and data don't fit together.
    """
    try:
        if datatype == "BYTES":
            array: Array = bytes_array([text.encode() for text in np.ravel(data).tolist()])
        else:
            array = np.array(data, np.float32 if datatype == "BF16" else DTYPES[datatype])
        return array.reshape(shape)
    except KeyError:
        raise WireError(f"unknown datatype {datatype!r}") from None
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"{datatype} {list(shape)}: {error}") from None
