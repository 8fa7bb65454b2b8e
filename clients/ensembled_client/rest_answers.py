"""The Open Inference Protocol over HTTP: what answers mean. Pure.

In: replies of a transport. Out: answers, documents, errors. The other half is `rest`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

from ensembled_client.datatypes import DTYPES, Array, as_objects, decode
from ensembled_client.errors import RequestRejected, ServerFailure, error_for_status
from ensembled_client.exchange import Answer, Subject, Topic

__all__ = ["Reply", "answer_of", "document_of"]

_LENGTH = b"inference-header-content-length"
_YES_OR_NO = {Subject.LIVE, Subject.READY, Subject.MODEL_READY}


@dataclass(frozen=True)
class Reply:
    """An HTTP response; headers as they came."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return a header's value; `name` is in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


def answer_of(reply: Reply) -> Answer:
    """Decode the reply to an infer call.

    Raises:
        EnsembledClientError: the error that it carries instead.
    """
    _check(reply)
    length = reply.header(_LENGTH)
    if length is not None and not length.isdigit():
        raise ServerFailure(f"the server's header {_LENGTH.decode()} is {length!r}", reply.status)
    return _decode_answer(reply.body, None if length is None else int(length))


def document_of(topic: Topic, reply: Reply) -> Any:
    """Decode the reply to a look-up: a bool, an object, or the index's list.

    Raises:
        EnsembledClientError: the error that it carries instead.
    """
    if topic.subject in _YES_OR_NO and reply.status in {200, 503}:
        return reply.status == HTTPStatus.OK
    _check(reply)
    wanted = list if topic.subject is Subject.INDEX else dict
    try:
        document = json.loads(reply.body)
    except ValueError:
        document = None
    if not isinstance(document, wanted):
        kind = "a JSON array" if wanted is list else "a JSON object"
        raise ServerFailure(f"the server's answer is not {kind}", reply.status)
    return document


def _check(reply: Reply) -> None:
    if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
        return
    try:
        text = str(json.loads(reply.body)["error"])
    except (ValueError, KeyError, TypeError):
        try:
            phrase = HTTPStatus(reply.status).phrase
        except ValueError:
            phrase = "from the server"
        text = f"{reply.status} {phrase}"
    if HTTPStatus.MULTIPLE_CHOICES <= reply.status < HTTPStatus.BAD_REQUEST:
        raise RequestRejected(f"{text}: the server is somewhere else", reply.status)
    raise error_for_status(reply.status, text, _seconds(reply.header(b"retry-after")))


def _seconds(text: bytes | None) -> float | None:
    """The header's seconds; its other form, a date, is not for us."""
    try:
        seconds = float(text or b"")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _decode_answer(body: bytes, json_length: int | None) -> Answer:
    """Decode the body of an infer response; `json_length` is None if it is all JSON."""
    try:
        document = json.loads(body[:json_length])
        position = len(body) if json_length is None else json_length
        outputs: dict[str, Array] = {}
        for described in document["outputs"]:
            size = described.get("parameters", {}).get("binary_data_size")
            if size is None:
                outputs[described["name"]] = _from_json(described)
                continue
            raw = memoryview(body)[position : position + size]
            outputs[described["name"]] = decode(described["datatype"], described["shape"], raw)
            position += size
        parameters = document.get("parameters", {})
        if not isinstance(parameters, Mapping):
            raise TypeError("parameters are not an object")
        return Answer(outputs, parameters)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ServerFailure(f"the server's answer can't be understood: {error!r}") from error


def _from_json(described: Mapping[str, Any]) -> Array:
    if described["datatype"] == "BYTES":
        array = as_objects([text.encode() for text in np.ravel(described["data"]).tolist()])
    else:
        array = np.array(described["data"], DTYPES[described["datatype"]])
    return array.reshape(described["shape"])
