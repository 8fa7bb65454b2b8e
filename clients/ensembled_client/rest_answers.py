"""The Open Inference Protocol over HTTP: what answers mean. Pure.

In: replies of a transport. Out: answers, documents, errors. The other half is `rest`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from ensembled_client.errors import RequestRejected, ServerFailure, error_for_status
from ensembled_client.exchange import Subject, Topic
from ensembled_client.wire import HEADER_LENGTH, InferResponse, WireError, decode_response

__all__ = ["Reply", "answer_of", "document_of"]

_LENGTH = HEADER_LENGTH.lower().encode()
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


def answer_of(reply: Reply) -> InferResponse:
    """Decode the reply to an infer call.

    Raises:
        EnsembledClientError: the error that it carries instead.
    """
    _check(reply)
    length = reply.header(_LENGTH)
    if length is not None and not length.isdigit():
        raise ServerFailure(f"the server's header {_LENGTH.decode()} is {length!r}", reply.status)
    try:
        return decode_response(reply.body, None if length is None else int(length))
    except WireError as error:
        raise ServerFailure(f"the server's answer can't be understood: {error}") from error


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
