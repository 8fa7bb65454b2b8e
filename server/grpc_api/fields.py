"""The top-level fields of an infer request's message, taken apart without parsing what is in them.

Runs in the front-end, on the hot path; pure. Raw tensors are the bulk of most requests, and what
is left without them and without the id (the *head*) is the same from request to request. So
the tensors are only sliced, and the head is parsed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from server.errors import InvalidRequest

__all__ = [
    "RAW_INPUT_CONTENTS",
    "Fields",
    "field_prefix",
    "length_prefixed",
    "refuse_many_parts",
    "take_apart",
]

#: The number of that field of ModelInferRequest.
RAW_INPUT_CONTENTS = 7
_ID, _RAW = 0x1A, RAW_INPUT_CONTENTS << 3 | 2
#: The tags of ModelInferRequest's fields, 1 to 7, all length-delimited (wire type 2).
_TAGS = frozenset(number << 3 | 2 for number in range(1, 8))
_LONGEST_SHIFT = 28
_MAX_FIELDS = 4096
#: Of a big head: elements of BYTES, parameters, numbers that are not packed.
_MAX_PARTS = 1 << 15
_VARINT, _FIXED = 0, {1: 8, 5: 4}
#: Tags of the fields to look into: of a request, and of an input. (An output has none of these.)
_INPUTS_OUTPUTS, _CONTENTS, _NOTHING = frozenset({0x2A, 0x32}), frozenset({0x2A}), frozenset[int]()


class Fields(NamedTuple):
    """The parts of a request.

    Attributes:
        head: the message without id and raw tensors, or else all of it.
        id: UTF-8, not checked; None if the head is all of the message.
        raw: the raw tensors, in their order.
    """

    head: bytes
    id: bytes | None
    raw: Sequence[bytes | memoryview]


def take_apart(message: bytes) -> Fields:
    """Take a serialized ModelInferRequest apart; one that needs a real parser is left whole.

    Raises:
        InvalidRequest: if it has so many fields that to look at each would hold everybody up.
    """
    view = memoryview(message)
    head: list[bytes] = []
    raw: list[memoryview] = []
    request_id = b""
    position, end = 0, len(message)
    for _ in range(_MAX_FIELDS):
        if position == end:
            return Fields(b"".join(head), request_id, raw)
        tag = message[position]
        span = _span(message, position + 1) if tag in _TAGS else None
        if span is None:
            return Fields(message, None, ())
        start, stop = span
        if tag == _RAW:
            raw.append(view[start:stop])
        elif tag == _ID:
            request_id = message[start:stop]
        else:
            head.append(message[position:stop])
        position = stop
    raise InvalidRequest(f"the request has more than {_MAX_FIELDS} parts")


def refuse_many_parts(head: bytes) -> None:
    """Look into a big head, before it is parsed: its inputs and outputs, and their contents.

    A parser makes an object of each part, for seconds if there are millions, and lets nobody in.

    Raises:
        InvalidRequest: if there are too many.
    """
    spans = [(0, len(head), _INPUTS_OUTPUTS)]
    parts = 0
    while spans:
        position, end, nested = spans.pop()
        while position < end:
            parts += 1
            if parts > _MAX_PARTS:
                raise InvalidRequest(f"the request's inputs have more than {_MAX_PARTS} parts")
            tag, kind = head[position], head[position] & 7
            if kind == _VARINT:
                position = _after_varint(head, position + 1)
            elif kind in _FIXED:
                position += 1 + _FIXED[kind]
            elif (span := _span(head, position + 1)) is not None:
                if tag in nested:
                    spans.append((*span, _CONTENTS if nested is _INPUTS_OUTPUTS else _NOTHING))
                position = span[1]
            else:
                return  # malformed, which the parser finds as soon as it gets here


def _after_varint(message: bytes, position: int) -> int:
    while position < len(message) and message[position] & 0x80:
        position += 1
    return position + 1


def _span(message: bytes, position: int) -> tuple[int, int] | None:
    """Where a field's content starts and stops, whose length stands here; None if it can't."""
    length = shift = 0
    while position < len(message) and shift <= _LONGEST_SHIFT:
        byte = message[position]
        position += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            stop = position + length
            return (position, stop) if stop <= len(message) else None
        shift += 7
    return None


def field_prefix(number: int, length: int) -> bytes:
    """What stands before the content of a length-delimited field.

    Args:
        number: of the field, below 16.
        length: of the content.
    """
    prefix = bytearray([number << 3 | 2])
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def length_prefixed(
    number: int, content: bytes | bytearray | memoryview
) -> list[bytes | bytearray | memoryview]:
    """A length-delimited field of a message, in pieces to join.

    Args:
        number: of the field, below 16.
        content: what is in it.
    """
    return [field_prefix(number, len(content)), content]
