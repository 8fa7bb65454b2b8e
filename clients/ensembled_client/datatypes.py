"""The protocol's datatypes and NumPy's. Pure; raw bytes go in and out, little-endian.

BF16 is the upper half of a float32; NumPy has no such type, so its elements are uint16 here, and
float32 for callers. Elements of BYTES have their length (uint32) before them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "DTYPES",
    "as_objects",
    "convert",
    "decode",
    "join_elements",
    "raw_bytes",
    "split_elements",
]

Array = npt.NDArray[Any]

#: NumPy's type for the elements of each fixed-size datatype.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BF16": np.dtype("<u2"),
}

_LENGTH = struct.Struct("<I")
_BFLOAT16 = "bfloat16"  # ml_dtypes' name, and so JAX's and TensorFlow's


def convert(array: Array, datatype: str) -> Array:
    """Cast to a datatype: floats may lose digits, but nothing else may change.

    Args:
        array: of numbers; ml_dtypes' bfloat16, too.
        datatype: one of `DTYPES`.

    Raises:
        TypeError: if it does not hold numbers.
        ValueError: if some of them would change.
    """
    if array.dtype.name == _BFLOAT16:
        if datatype == "BF16":
            return array.view("<u2")
        array = array.astype(np.float32)
    if datatype == "BF16":
        return _to_bfloat16(convert(array, "FP32"))
    dtype = DTYPES[datatype]
    if array.dtype.kind not in "biuf":
        raise TypeError(f"it holds {array.dtype}")
    if array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(dtype)
    if not np.can_cast(array.dtype, dtype, "same_kind") and not (converted == array).all():
        raise ValueError(f"some of its values ({array.dtype}) would change")
    return converted


def _to_bfloat16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to the nearest, ties to even: add half of the last kept bit, or a little less."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    kept_bit = (bits >> 16) & 1
    # Wraps only for NaNs, which are made quiet instead, so that they can't become infinity.
    rounded = (bits + np.uint32(0x7FFF) + kept_bit) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(array), quiet, rounded).astype("<u2").reshape(array.shape)


def raw_bytes(array: Array) -> bytes | memoryview:
    """Return an array's elements as the protocol sends them, without a copy if it can be."""
    contiguous = np.ascontiguousarray(array)
    return contiguous.data.cast("B") if contiguous.size else b""


def decode(datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Array:
    """Return the array that raw bytes stand for; it is a view of them, not to be written to.

    Raises:
        KeyError: if there is no such datatype.
        ValueError: if the bytes don't have that shape.
        struct.error: if they are no elements.
    """
    if datatype == "BYTES":
        return as_objects(split_elements(raw)).reshape(shape)
    array = np.frombuffer(raw, DTYPES[datatype]).reshape(shape)
    if datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4")
    return array


def as_objects(elements: Sequence[bytes]) -> npt.NDArray[np.object_]:
    """Return a flat array of bytes objects."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def join_elements(elements: Iterable[bytes]) -> bytes:
    """Return the raw form of elements of BYTES."""
    return b"".join(part for one in elements for part in (_LENGTH.pack(len(one)), one))


def split_elements(raw: bytes | memoryview) -> list[bytes]:
    """Return the elements of BYTES that raw bytes hold.

    Raises:
        ValueError: if one is cut short.
        struct.error: if a length is.
    """
    view, position, elements = memoryview(raw), 0, []
    while position < len(view):
        (length,) = _LENGTH.unpack_from(view, position)
        position += _LENGTH.size
        element = bytes(view[position : position + length])
        if len(element) != length:
            raise ValueError("an element of BYTES is cut short")
        elements.append(element)
        position += length
    return elements
