"""The protocol's datatypes and NumPy's dtypes, and casts between them.

Runs in every process that speaks the protocol; pure. BF16 is the upper half of a float32. NumPy has
no such dtype, so raw BF16 elements are uint16 here, and float32 to callers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "Array", "WireError", "cast", "datatype_of"]

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


def datatype_of(dtype: npt.DTypeLike) -> str:
    """Return the protocol's name of a NumPy dtype; objects are elements of BYTES.

    Raises:
        KeyError: if the protocol has no name for it.
    """
    return _DATATYPES[np.dtype(dtype)]


def cast(array: Array, datatype: str) -> Array:
    """Cast to a datatype: floats may lose digits, but no other value may change.

    Args:
        array: of numbers; ml_dtypes' bfloat16 as well.
        datatype: one of `DTYPES`.

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
