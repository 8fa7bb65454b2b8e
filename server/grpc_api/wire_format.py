"""Protobuf's wire format: infer requests split into fields without parsing their contents.

Runs in the front-end, on the hot path; pure. Raw tensors are the bulk of most requests, and what
remains without them and the id (the *head*) is the same from request to request. So the tensors
are only sliced, and the head is parsed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from server.errors import InvalidRequest

__all__ = [
    "RAW_INPUT_CONTENTS",
    "Fields",
    "check_part_count",
    "field_prefix",
    "length_prefixed",
    "split_fields",
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
#: Tags of the fields to descend into: of a request, and of an input. (An output has none.)
_INPUTS_OUTPUTS, _CONTENTS, _NOTHING = frozenset({0x2A, 0x32}), frozenset({0x2A}), frozenset[int]()


class Fields(NamedTuple):
    """The parts of a request.

    `head` is the message without id and raw tensors, or else all of it, and `id` is None then. The
    id is UTF-8, not validated; the tensors are in order.
    """

    head: bytes
    id: bytes | None
    raw: Sequence[bytes | memoryview]


def split_fields(message: bytes) -> Fields:
    """Split a serialized ModelInferRequest; one that needs a real parser is left whole.

    Raises `InvalidRequest` if it has so many fields that splitting would block the event loop.
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


def check_part_count(head: bytes) -> None:
    """Raise `InvalidRequest` if a big head has too many inputs, outputs and contents to parse.

    A parser makes an object of each, which blocks the process for seconds if there are millions.
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
                return  # malformed, which the parser finds here, too


def _after_varint(message: bytes, position: int) -> int:
    while position < len(message) and message[position] & 0x80:
        position += 1
    return position + 1


def _span(message: bytes, position: int) -> tuple[int, int] | None:
    """Start and stop of a field's content, whose length is here; None if malformed."""
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
    """The tag and length before a length-delimited field's content; its number is below 16."""
    prefix = bytearray([number << 3 | 2])
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def length_prefixed(
    number: int, content: bytes | bytearray | memoryview
) -> list[bytes | bytearray | memoryview]:
    """A length-delimited field of a message, in pieces to join; its number is below 16."""
    return [field_prefix(number, len(content)), content]
