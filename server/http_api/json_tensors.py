"""Tensors as JSON: from the text of an input's ``data`` to an array, and from an array to text.

Runs in the front-end; pure. Decoders and encoders hold the interpreter lock, so both directions are
generators that work slice by slice: other requests are served between two slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from server.errors import InvalidRequest
from server.inference.tensors import InputTensor, count_elements, find_dtype
from server.inference.time_slicer import Slices

__all__ = ["SLICE_BYTES", "encode_array", "tensor_from_json"]

#: How much text is decoded at once: about a third of a millisecond.
SLICE_BYTES = 1 << 16
_SLICE_ELEMENTS = 1 << 13
_MAX_DEPTH = 64

_SPACE = b" \t\r\n"
#: What numbers and truth values are written with.
_SCALARS = b"0123456789+-.eEtrufals"

_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_DECODERS: dict[str, Callable[[bytes], list[Any]]] = {
    # Whole numbers of any size may stand for floats, so none is decoded as an integer before.
    "f": msgspec.json.Decoder(list[float]).decode,
    "i": msgspec.json.Decoder(list[int]).decode,
    "u": msgspec.json.Decoder(list[int]).decode,
    "b": msgspec.json.Decoder(list[bool]).decode,
}


def tensor_from_json(
    name: str,
    datatype: str,
    shape: Sequence[int],
    text: memoryview,
    *,
    slice_bytes: int = SLICE_BYTES,
) -> Slices[InputTensor]:
    """Decode a tensor from valid JSON: its elements, nested or flat, row-major.

    Raises `InvalidRequest` if datatype, shape (batch first) and values don't fit together.
    """
    count = count_elements(name, shape)
    if datatype == "BYTES":
        texts = _decode_texts(name, text)
        _check_count(name, shape, len(texts), count)
        return InputTensor(name, datatype, shape, elements=texts)
    if datatype == "BF16":
        raise InvalidRequest(f"input {name!r}: BF16 is sent as binary data, not in JSON")
    dtype = find_dtype(name, datatype)
    array = np.empty(count if count <= len(text) else 0, dtype)
    nesting: list[bytes] = []
    position = decoded = 0
    while position < len(text):
        window = _cut_slice(text, position, slice_bytes)
        position += len(window) + 1  # the comma
        nesting.append(window.translate(None, _SCALARS + _SPACE))
        values = _decode_slice(name, datatype, dtype, window)
        if decoded + values.size <= array.size:
            array[decoded : decoded + values.size] = values
        decoded += values.size
        yield
    if not _is_regular(b",".join(nesting), decoded):
        raise _irregular(name)
    _check_count(name, shape, decoded, count)
    return InputTensor(name, datatype, shape, array.reshape(shape))


def _cut_slice(text: memoryview, position: int, slice_bytes: int) -> bytes:
    """The text from a position to its end, or to the last comma within the length of a slice."""
    while True:
        window = bytes(text[position : position + slice_bytes])
        if position + len(window) == len(text):
            return window
        if (comma := window.rfind(b",")) >= 0:
            return window[:comma]
        slice_bytes *= 2


def _decode_slice(
    name: str, datatype: str, dtype: np.dtype[np.generic], text: bytes
) -> npt.NDArray[np.generic]:
    """Decode the scalars of a text that is cut at commas, whatever their nesting."""
    scalars = text.translate(None, b"[]")
    if not scalars.strip(_SPACE + b","):  # nothing but empty arrays
        return np.empty(0, dtype)
    try:
        values = _DECODERS[dtype.kind](b"[%b]" % scalars)
        given = np.asarray(values, np.float64 if dtype.kind == "f" else dtype)
    except msgspec.ValidationError:
        raise _wrong_type(name, datatype) from None
    except msgspec.DecodeError:
        raise _irregular(name) from None
    except OverflowError:
        raise _out_of_range(name, datatype) from None
    with np.errstate(over="ignore"):
        array = given.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(array).all():  # JSON has no infinity of its own
        raise _out_of_range(name, datatype)
    return array


def _is_regular(nesting: bytes, elements: int) -> bool:
    """Whether the brackets and commas of a JSON array are those of a regular one.

    Without its values, it repeats itself: ``[[,],[,],[,]]`` is three rows of two. So sizes are read
    off the first array of each level, and what these make is compared.
    """
    depth = len(nesting) - len(nesting.lstrip(b"["))
    if depth > _MAX_DEPTH:
        return False
    unit, product = b"", 1
    for level in range(1, depth + 1):
        end = nesting.find(b"]" * level)
        length = end + 2 * level - depth
        count, odd = divmod(length - 1, len(unit) + 1)  # "[" unit "," unit ... "]"
        if end < 0 or odd:
            return False
        unit = b"[" + (unit + b",") * (count - 1) + unit + b"]"
        product *= count
    return unit == nesting and elements in {0, product}


def _decode_texts(name: str, text: memoryview) -> list[bytes]:
    texts: list[bytes] = []
    try:
        stack = [_decode(bytes(text))]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"input {name!r}: its data is not valid JSON: {error}") from None
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(reversed(value))
        elif isinstance(value, str):
            texts.append(value.encode())
        else:
            raise InvalidRequest(f"input {name!r}: BYTES in JSON are strings")
    return texts


def _check_count(name: str, shape: Sequence[int], given: int, count: int) -> None:
    if given != count:
        raise InvalidRequest(
            f"input {name!r}: {given} elements of data, but the shape {list(shape)} says {count}"
        )


def _irregular(name: str) -> InvalidRequest:
    return InvalidRequest(f"input {name!r}: data is not a regular array of numbers")


def _wrong_type(name: str, datatype: str) -> InvalidRequest:
    return InvalidRequest(f"input {name!r}: its data does not consist of {datatype} values")


def _out_of_range(name: str, datatype: str) -> InvalidRequest:
    return InvalidRequest(f"input {name!r}: a value is out of the range of {datatype}")


def encode_array(
    array: npt.NDArray[np.generic], *, slice_elements: int = _SLICE_ELEMENTS
) -> Slices[orjson.Fragment]:
    """Encode a one-dimensional array in slices; what is not a number becomes null."""
    slices = []
    for start in range(0, array.size, slice_elements):
        piece = array[start : start + slice_elements]
        slices.append(orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        yield
    return orjson.Fragment(b"[" + b",".join(slices) + b"]")
