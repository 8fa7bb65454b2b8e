"""Reads the JSON files that people write: devices, profiles. Errors are one line each.

Used where such a file is read; text flows in, checked values flow out. Unknown keys
are ignored: other programs may keep theirs beside ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

__all__ = ["entries", "number", "text", "whole_number"]

Entry = Mapping[str, Any]

_LONGEST = 60
#: Sums of bytes must fit 64 bits.
_LARGEST = 1 << 48


def entries(document: str | bytes, key: str) -> Iterator[tuple[str, Entry]]:
    """Yield (where it is, the object) for every object of the document's list.

    Args:
        document: JSON, an object with a list of objects.
        key: the list's key.

    Raises:
        ValueError: if the document is not of that form.
    """
    try:
        root = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(root, dict) or not isinstance(root.get(key), list):
        raise ValueError(f"should be an object with a list {key!r}")
    if not root[key]:
        raise ValueError(f"{key}: is empty")
    for index, entry in enumerate(root[key]):
        where = f"{key}[{index}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: should be an object")
        yield where, entry


def text(entry: Entry, key: str, where: str) -> str:
    """Return a text that is not empty.

    Raises:
        ValueError: if it is anything else.
    """
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}.{key}: should be a text, not {_short(value)}")
    return value


def number(entry: Entry, key: str, where: str) -> float:
    """Return a finite number.

    Raises:
        ValueError: if it is anything else.
    """
    value = entry.get(key)
    # A whole number may be too large for a float, and a boolean passes for 0 or 1.
    with suppress(OverflowError):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    raise ValueError(f"{where}.{key}: should be a number, not {_short(value)}")


def whole_number(entry: Entry, key: str, where: str) -> int:
    """Return a whole number that is not negative; 1e9 is one, too.

    Raises:
        ValueError: if it is anything else.
    """
    value = number(entry, key, where)
    if not 0 <= value <= _LARGEST:
        raise ValueError(f"{where}.{key}: should be from 0 to {_LARGEST}, not {_short(entry[key])}")
    if value != int(value):
        raise ValueError(f"{where}.{key}: should be a whole number, not {_short(entry[key])}")
    return int(entry[key])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
