"""Tensors in the protocol's datatypes: as NumPy arrays, as raw bytes and as JSON data. Pure.

Raw elements are little-endian and row-major. BF16 is the upper half of a float32; NumPy has no such
dtype, so its raw elements are uint16 here, and float32 to callers. Each raw element of BYTES has
its length (uint32) before it; in arrays they are bytes objects.
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

__all__ = [
    "DTYPES",
    "Array",
    "RawTensor",
    "WireError",
    "bytes_array",
    "cast",
    "datatype_of",
    "decode_array",
    "decode_json",
    "dump_json",
    "encode_array",
    "encode_json",
    "join_elements",
    "split_elements",
]

Array = npt.NDArray[Any]


class WireError(ValueError):
    """Data does not fit its datatype and shape, or a body is not what the protocol says."""


#: NumPy's dtype for the elements of each fixed-size datatype; BYTES has none.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BF16": np.dtype("<u2"),
}

_DATATYPES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
_DATATYPES[np.dtype(object)] = "BYTES"
_BFLOAT16 = "bfloat16"  # the dtype of ml_dtypes, and so of JAX and TensorFlow
_LENGTH = struct.Struct("<I")

#: Writes a document as compact JSON.
dump_json = json.JSONEncoder(separators=(",", ":")).encode


def datatype_of(dtype: npt.DTypeLike) -> str:
    """Return the protocol's name of a NumPy dtype; objects are elements of BYTES.

    Raises:
        KeyError: if the protocol has no name for it.
    """
    return _DATATYPES[np.dtype(dtype)]


def cast(array: Array, datatype: str) -> Array:
    """Cast numbers, ml_dtypes' bfloat16 as well, to one of `DTYPES`.

    Floats may lose digits, but no other value may change.

    Raises:
        WireError: if the array does not hold numbers, or a value would change.
    """
    if array.dtype.name == _BFLOAT16:
        if datatype == "BF16":
            return array.view("<u2")
        array = array.astype(np.float32)
    if datatype == "BF16":
        return _to_bfloat16(cast(array, "FP32"))
    dtype = DTYPES[datatype]
    if array.dtype.kind not in "biuf":
        raise WireError(f"it holds {array.dtype}")
    if array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(dtype)
    if not np.can_cast(array.dtype, dtype, "same_kind") and not (converted == array).all():
        raise WireError(f"some of its values ({array.dtype}) would change")
    return converted


def _to_bfloat16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to the nearest, ties to even: add half of the last kept bit, or a little less."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    kept_bit = (bits >> 16) & 1
    # Wraps only for NaNs, which are made quiet instead, so that they can't become infinity.
    rounded = (bits + np.uint32(0x7FFF) + kept_bit) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(array), quiet, rounded).astype("<u2").reshape(array.shape)


@dataclass(frozen=True)
class RawTensor:
    """A tensor [n, ...] of one of the protocol's datatypes, e.g. "FP32", as raw elements."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def encode_array(array: Array) -> bytes | memoryview:
    """Return the raw elements of an array, without a copy where possible.

    Its dtype is in `DTYPES`, or its elements are bytes objects, for BYTES.
    """
    if array.dtype.kind == "O":
        return join_elements(array.ravel())
    contiguous = np.ascontiguousarray(array)
    return contiguous.data.cast("B") if contiguous.size else b""


def decode_array(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Return the array of raw elements.

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
    """Return the elements of BYTES that raw bytes hold, without a copy; None is any number of them.

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

    Floats are written as the shortest text that means the same number of their own dtype. Elements
    of BYTES hold UTF-8.

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
