"""What answers are worth: fine, or an error of some kind; whole or degraded. Pure.

Every answer: its status; that it came complete; that it speaks of outputs; whether it is degraded;
over binary HTTP also that its tensors are as long as in the first one. Parsing all of them would
make the tester the bottleneck, so only the first answer of every connection (for each number of
rows) is read as a client would: it must name its outputs and have a row per row of the request.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from ensembled_client.load.response import Response

__all__ = ["HttpJudge", "Verdict", "classify", "document_fault"]

_MOST_KIND_CHARACTERS = 120
_DEGRADED = (b'"degraded":true', b'"degraded": true')
_NUMBERS = re.compile(r"\d+(\.\d+)?")
_NONSENSE = "it is not what the protocol says"
_ITEM_BYTES = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2,
    "INT32": 4, "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip


class Verdict(NamedTuple):
    """What an answer is worth.

    Attributes:
        error: its kind; None if the answer is fine.
        is_degraded: whether it rests on fewer members than the ensemble has.
    """

    error: str | None
    is_degraded: bool = False


_GOOD_ANSWER = Verdict(None)
_DEGRADED_ANSWER = Verdict(None, is_degraded=True)


def classify(status: object, message: str) -> str:
    """Return the kind of an error: messages that differ in numbers alone are one kind."""
    text = _NUMBERS.sub("N", " ".join(message.split()))
    if len(text) > _MOST_KIND_CHARACTERS:
        text = text[:_MOST_KIND_CHARACTERS] + "…"
    return f"{status}: {text}" if text else str(status)


class HttpJudge:
    """Judges the answers of one connection."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[int, int | None] = {}  # rows: the length of the raw tensors

    def judge(self, response: Response, rows: int) -> Verdict:
        """Judge the answer to a request of so many rows."""
        if response.head.status != 200:
            return Verdict(classify(response.head.status, _message(response.body)))
        body, length = response.body, response.head.json_length
        if length is None:
            text, raw_bytes = body, None
        elif length > len(body):
            return Verdict("wrong answer: it is shorter than its JSON")
        else:
            text, raw_bytes = body[:length], len(body) - length
        if rows not in self._seen:
            fault = _json_fault(text, rows, raw_bytes)
            if fault is None:
                self._seen[rows] = raw_bytes
        elif self._seen[rows] != raw_bytes:
            fault = "its tensors are not as long as those of the first answer"
        elif b'"outputs"' not in text:
            fault = _NONSENSE
        else:
            fault = None
        if fault is not None:
            return Verdict(f"wrong answer: {fault}")
        if _DEGRADED[0] in text or _DEGRADED[1] in text:
            return _DEGRADED_ANSWER
        return _GOOD_ANSWER


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:_MOST_KIND_CHARACTERS].decode(errors="replace")


def _json_fault(text: bytes, rows: int, raw_bytes: int | None) -> str | None:
    try:
        document = json.loads(text)
        return document_fault(document, rows, raw_bytes)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return _NONSENSE


def document_fault(document: Any, rows: int, raw_bytes: int | None) -> str | None:
    """What is wrong with a decoded answer, None for nothing.

    Args:
        document: the response's JSON (or the same of a gRPC message).
        rows: of the request.
        raw_bytes: how many bytes of raw tensors came with it; None if the values are in it.

    Raises:
        KeyError, TypeError, AttributeError, IndexError: if it is not what the protocol says.
    """
    outputs = document["outputs"]
    if not outputs:
        return "it has no output"
    expected_bytes = 0
    for output in outputs:
        name, shape = output["name"], output["shape"]
        if shape[0] != rows:
            return f"output {name!r} has {shape[0]} rows, the request {rows}"
        elements, datatype = math.prod(shape), output["datatype"]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None and raw_bytes is None:
            if _elements(output["data"]) != elements:
                return f"output {name!r} has not as many values as its shape says"
        elif size is None or (datatype in _ITEM_BYTES and size != elements * _ITEM_BYTES[datatype]):
            return f"output {name!r} has not as many bytes as its shape says"
        expected_bytes += size or 0
    return "it is longer than its outputs" if expected_bytes != (raw_bytes or 0) else None


def _elements(data: Any) -> int:
    return sum(map(_elements, data)) if isinstance(data, list) else 1
