"""Decodes the JSON files that people write: devices, profiles, allocations.

Used where such a file is read; text flows in, typed values flow out. Unknown keys are ignored:
other programs may keep theirs beside ours.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

__all__ = ["Name", "Size", "decode"]

_T = TypeVar("_T")

#: A text that is not empty.
Name = Annotated[str, msgspec.Meta(min_length=1)]
#: A number of rows or bytes, also one with an exponent; sums of bytes must fit 64 bits.
Size = Annotated[float, msgspec.Meta(ge=0, le=1 << 48, multiple_of=1)]


def decode(document: str | bytes, kind: type[_T]) -> _T:
    """Return the value that a JSON document holds.

    Raises:
        ValueError: in one line that begins with the key in question, if the text is not JSON or
            does not hold such a value.
    """
    try:
        return msgspec.json.decode(document, type=kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        where = path.rstrip("`").lstrip(".")
        raise ValueError(f"{where}: {problem}" if where else problem) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
