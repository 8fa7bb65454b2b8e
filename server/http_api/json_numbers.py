"""Big arrays of numbers in JSON, read and written in slices, so that the event loop stays free.

Runs in the front-end; pure. A parser holds the interpreter lock for as long as it parses, tens of
milliseconds for a request with a thousand rows, and a thread would not help. So the arrays that are
the values of ``"data"`` are taken out of the text and decoded slice by slice, by generators that
yield between slices; what remains is small and goes to the ordinary parser.

    text                                   document                      arrays
    {"inputs":[{"name":"x","shape":[9,9],  {"inputs":[{"name":"x", ...
      "data":[[0.5,1,...],...]}]}    ->      "data":["<mark>0"]}]}   +   {"<mark>0": pieces}

Only what is plainly a regular array of numbers or truth values is taken out. Everything else stays
where it is, for the ordinary parser to judge: so both ways accept and refuse the same documents.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from server.http_api.json_nesting import is_regular
from server.inference.time_slicer import Steps

__all__ = ["SLICE_BYTES", "Extract", "dump_in_steps", "extract"]

#: How much text is decoded in one step.
SLICE_BYTES = 1 << 16
_WINDOW_BYTES = 1 << 20
_SLICE_ELEMENTS = 1 << 13
#: So often is looked for an array: more inputs than any model has.
_MAX_KEYS = 1024

_KEY = b'"data"'
_BEFORE_ARRAY = re.compile(rb"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}(?=\[)")
_BYTE = re.compile(r"\(byte (\d+)\)")
_BACKSLASH = ord("\\")
_SPACE = b" \t\r\n"
_SCALARS = b"0123456789+-.eEtrufals"
#: Makes every character of a number or a truth value a zero, and what is foreign here an x.
_CLASSES = bytes(
    ord("0") if byte in _SCALARS else byte if byte in b"[]," else ord("x") for byte in range(256)
)

# In answers: what clients send comes back in them, so it must be beyond guessing, too.
_MARK = secrets.token_hex(16)

_decode = msgspec.json.Decoder().decode
_decode_floats = msgspec.json.Decoder(list[float]).decode


class Extract(msgspec.Struct, frozen=True):
    """A JSON text whose big arrays were taken out.

    Attributes:
        document: the text with ``["mark"]`` for each array.
        arrays: by mark, the pieces of each array in order, flat, with the dtypes that NumPy finds
            in them.
        cuts: for each array its place in `document`, and how many bytes shorter that is there.
    """

    document: bytes
    arrays: dict[str, list[npt.NDArray[np.generic]]]
    cuts: list[tuple[int, int]]

    def find(self, value: object) -> list[npt.NDArray[np.generic]] | None:
        """The pieces of the array in whose place `value` was decoded, None if it is no such."""
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            return self.arrays.get(value[0])
        return None

    def original(self, complaint: str) -> str:
        """A complaint about `document`, which may name a byte, as one about the whole text."""
        return _BYTE.sub(
            lambda found: f"(byte {self._original_position(int(found[1]))})", complaint
        )

    def _original_position(self, position: int) -> int:
        return position + sum(shorter for place, shorter in self.cuts if place < position)


def extract(
    text: bytes | bytearray,
    end: int,
    *,
    least_bytes: int = SLICE_BYTES // 2,
    slice_bytes: int = SLICE_BYTES,
) -> Steps[Extract | None]:
    """Take the big arrays of numbers out of a JSON text.

    Args:
        text: begins with the JSON.
        end: where the JSON ends.
        least_bytes: shorter arrays stay.
        slice_bytes: how much is decoded in one step.

    Returns:
        None if there is nothing to take out.
    """
    # No client can guess it, so none can name an array that is not there.
    secret = secrets.token_hex(16)
    kept: list[bytes | bytearray] = []
    arrays: dict[str, list[npt.NDArray[np.generic]]] = {}
    cuts: list[tuple[int, int]] = []
    position = done = length = 0
    for _ in range(_MAX_KEYS):
        key_end = yield from _find_key(text, position, end)
        if key_end < 0:
            break
        if (start := _array_after(text, key_end, end)) < 0:
            position = key_end
            continue
        position, stop, pieces = yield from _read_array(text, start, end, slice_bytes)
        if pieces is None or stop - start < least_bytes:
            continue
        mark = f"{secret}{len(arrays)}"
        arrays[mark] = pieces
        before, place = text[done:start], b'["%b"]' % mark.encode()
        length += len(before) + len(place)
        cuts.append((length - 1, stop - start - len(place)))
        kept += before, place
        done = stop
        yield
    if not arrays:
        return None
    return Extract(b"".join([*kept, text[done:end]]), arrays, cuts)


def _find_key(text: bytes | bytearray, position: int, end: int) -> Steps[int]:
    """Where the next ``"data"`` ends, -1 if there is none."""
    while position < end:
        found = text.find(_KEY, position, min(end, position + _WINDOW_BYTES))
        yield
        if found >= 0:
            return found + len(_KEY)
        position += _WINDOW_BYTES - len(_KEY)
    return -1


def _array_after(text: bytes | bytearray, key_end: int, end: int) -> int:
    """The place of the ``[`` that begins the value of a key ``"data"``, -1 if it is none.

    Within a string quotes have a backslash before them, so the key is never found there.
    """
    match = _BEFORE_ARRAY.match(text, key_end, end)
    start = key_end - len(_KEY)
    return match.end() if match and not (start and text[start - 1] == _BACKSLASH) else -1


def _read_array(
    text: bytes | bytearray, start: int, end: int, slice_bytes: int
) -> Steps[tuple[int, int, list[npt.NDArray[np.generic]] | None]]:
    """Read the array that begins at `start`, as far as it consists of numbers and truth values.

    Returns:
        Where to look on, where the array ends, and its pieces; None if it is not plainly regular.
    """
    pieces: list[npt.NDArray[np.generic]] = []
    nesting: list[bytes | bytearray] = []
    position, is_last = start, False
    while not is_last:
        window = text[position : min(end, position + slice_bytes)]
        piece_text, is_last = _cut(window, position + len(window) == end)
        if is_last and pieces and not piece_text:
            position -= 1  # the last cut was made at the comma after the array
            break
        position += len(piece_text)
        piece = _decode_slice(piece_text, nesting) if piece_text else None
        if piece is None:
            return max(position, start + 1), position, None
        pieces.append(piece)
        position += not is_last  # the comma
        yield
    if not (yield from is_regular(b"".join(nesting), sum(piece.size for piece in pieces))):
        return position, position, None
    return position, position, pieces


def _cut(window: bytes | bytearray, is_end: bool) -> tuple[bytes | bytearray, bool]:
    """Cut a window at its last comma, or where the array ends.

    Returns:
        The text up to there, empty if there is nothing of an array, and whether it is the end.
    """
    comma = -1 if is_end else window.rfind(b",")
    foreign = window.translate(None, _SCALARS + b"[]," + _SPACE)
    if not foreign and comma > 0:
        return window[:comma], False
    if not foreign and not is_end:
        return b"", True
    inside = window[: window.find(foreign[:1])] if foreign else window
    return inside.rstrip(_SPACE + b","), True


def _decode_slice(
    text: bytes | bytearray, nesting: list[bytes | bytearray]
) -> npt.NDArray[np.generic] | None:
    """Decode the scalars of a text that is cut at commas, and note its brackets and commas.

    Returns:
        The scalars, or None if these are not all JSON, or don't make an array of a simple type.
    """
    classes = text.translate(_CLASSES, _SPACE)
    if _touch(classes):
        return None
    if nesting:
        nesting.append(b",")
    nesting.append(classes.translate(None, b"0"))
    try:
        return _to_array(b"".join((b"[", text.translate(None, b"[]"), b"]")))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError):
        return None


def _touch(classes: bytes | bytearray) -> bool:
    """Whether a scalar stands right before a ``[`` or right after a ``]``."""
    codes = np.frombuffer(classes, np.uint8)
    scalars = codes == ord("0")
    before = scalars[:-1] & (codes[1:] == ord("["))
    after = scalars[1:] & (codes[:-1] == ord("]"))
    return bool(before.any() or after.any())


def _to_array(text: bytes) -> npt.NDArray[np.generic] | None:
    count = text.count(b",") + 1
    if text.count(b".") == count:
        # All are floats, because no number has two points.
        return np.fromiter(_decode_floats(text), np.float64, count)
    values = _decode(text)
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.size != count:
        return None
    if array.dtype.kind == "f" and b"." not in text and all(type(value) is int for value in values):
        return None  # whole numbers below and above 2**63, for which NumPy has no type in common
    return array


def dump_in_steps(
    document: dict[str, Any], *, slice_elements: int = _SLICE_ELEMENTS
) -> Steps[bytes]:
    """Write an answer as JSON, big arrays in slices; the very bytes that one step would give.

    Args:
        document: its ``outputs`` may have one-dimensional NumPy arrays as their ``data``.
        slice_elements: how many numbers are written in one step.
    """
    arrays: list[npt.NDArray[np.generic]] = []
    outputs: list[dict[str, Any]] = []
    for output in document["outputs"]:
        data = output.get("data")
        if isinstance(data, np.ndarray) and data.size > slice_elements:
            arrays.append(data)
            output = {**output, "data": _MARK}  # noqa: PLW2901
        outputs.append(output)
    frame = orjson.dumps({**document, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    first, *others = frame.split(b'"%b"' % _MARK.encode())
    parts = [first]
    for array, after in zip(arrays, others, strict=True):
        parts.append(b"[")
        for start in range(0, array.size, slice_elements):
            piece = array[start : start + slice_elements]
            parts.append(orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
            parts.append(b",")
            yield
        parts[-1] = b"]" + after
    return b"".join(parts)
