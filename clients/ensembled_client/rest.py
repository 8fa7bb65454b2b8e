"""The Open Inference Protocol over HTTP: what is sent, and what answers mean. Pure.

In: requests and topics of a session. Out: calls for a transport, with headers and body made; then
its replies in, answers and documents out. Tensors are raw both ways (the binary tensor extension:
JSON, then the raw tensors). Requests that differ only in their raw bytes share one header, which
is made once; the server remembers its side of it, too.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import numpy as np

from ensembled_client.addresses import Address, Options
from ensembled_client.datatypes import DTYPES, Array, as_objects, decode
from ensembled_client.errors import RequestRejected, ServerFailure, error_for_status
from ensembled_client.exchange import OUTPUT, Answer, InferRequest, Subject, Topic

__all__ = ["Body", "Call", "Reply", "Rest"]

Headers = list[tuple[bytes, bytes]]

_LENGTH = "Inference-Header-Content-Length"
_MAX_HEADERS = 256
_JOINED_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 20
_PATHS = {
    Subject.SERVER: "/v2",
    Subject.LIVE: "/v2/health/live",
    Subject.READY: "/v2/health/ready",
    Subject.INDEX: "/v2/repository/index",
    Subject.STATISTICS: "/v2/models/stats",
}
_MODEL_PATHS = {
    Subject.METADATA: "",
    Subject.CONFIG: "/config",
    Subject.STATISTICS: "/stats",
    Subject.MODEL_READY: "/ready",
}
_YES_OR_NO = {Subject.LIVE, Subject.READY, Subject.MODEL_READY}


class Body:
    """A body to be sent: in one piece if it is small, else in chunks, none of them copied."""

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        self.size_bytes = sum(len(part) for part in parts)
        if self.size_bytes <= _JOINED_BYTES:
            parts = [b"".join(parts)]
        self._parts = parts

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Give the chunks."""
        for part in self._parts:
            view = memoryview(part)
            for start in range(0, len(part), _CHUNK_BYTES):
                chunk = view[start : start + _CHUNK_BYTES]
                yield part if len(chunk) == len(part) else chunk

    async def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        """Give the chunks."""
        for chunk in self:
            yield chunk


@dataclass(frozen=True)
class Call:
    """An HTTP request."""

    method: bytes
    target: bytes
    headers: Headers
    body: Body | None = None


@dataclass(frozen=True)
class Reply:
    """An HTTP response; headers as they came."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return a header's value; `name` is in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class Rest:
    """Encodes and decodes for one server.

    Args:
        address: the server's.
        options: headers and compression are used here.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self._path = address.path
        self._compression = options.compression
        self._common: Headers = [
            (b"Host", address.authority.encode("idna" if not address.host.isascii() else "ascii")),
            (b"User-Agent", b"ensembled-client"),
            # Float tensors don't get smaller.
            (b"Accept-Encoding", b"identity"),
        ]
        self._common += [(name.encode(), text.encode()) for name, text in options.headers.items()]
        self._heads: dict[Any, tuple[bytes, Headers]] = {}

    # -- requests -----------------------------------------------------------------------------

    def infer(self, request: InferRequest) -> Call:
        """Return the call that has a model predict."""
        head, headers = self._head(request)
        body = Body([head, *(tensor.data for tensor in request.tensors)])
        if self._compression is not None:
            body = _compressed(body, self._compression)
        length = (b"Content-Length", str(body.size_bytes).encode())
        target = self._target(f"{_model_path(request.model)}/infer")
        return Call(b"POST", target, [*headers, length], body)

    def overhead_bytes(self, request: InferRequest) -> int:
        """Return how much of a request's body is not raw tensors, at most."""
        return len(self._head(request)[0]) + 16

    def look_up(self, topic: Topic) -> Call:
        """Return the call that asks about something."""
        if topic.model:
            path = _model_path(topic.model) + _MODEL_PATHS[topic.subject]
        else:
            path = _PATHS[topic.subject]
        if topic.subject is Subject.INDEX:
            headers = [*self._common, (b"Content-Length", b"0")]
            return Call(b"POST", self._target(path), headers)
        return Call(b"GET", self._target(path), self._common)

    def _target(self, path: str) -> bytes:
        return f"{self._path}{path}".encode("ascii")

    def _head(self, request: InferRequest) -> tuple[bytes, Headers]:
        """The JSON of a request and its HTTP headers but for the length of the whole."""
        tensors = [(one.name, one.datatype, one.shape, len(one.data)) for one in request.tensors]
        key = (request.outputs, request.classes, request.parameters, *tensors)
        known = self._heads.get(key)
        if known is not None:
            return known
        text = json.dumps(_document(request)).encode()
        headers = [
            *self._common,
            (b"Content-Type", b"application/octet-stream"),
            (_LENGTH.encode(), str(len(text)).encode()),
        ]
        if self._compression is not None:
            headers.append((b"Content-Encoding", self._compression.encode()))
        if len(self._heads) >= _MAX_HEADERS:
            self._heads = {}
        self._heads[key] = text, headers
        return text, headers

    # -- answers ------------------------------------------------------------------------------

    def answer(self, reply: Reply) -> Answer:
        """Decode the reply to an infer call.

        Raises:
            EnsembledClientError: the error that it carries instead.
        """
        _check(reply)
        length = reply.header(b"inference-header-content-length")
        if length is not None and not length.isdigit():
            raise ServerFailure(f"the server's header {_LENGTH} is {length!r}", reply.status)
        return _decode_answer(reply.body, None if length is None else int(length))

    def document(self, topic: Topic, reply: Reply) -> Any:
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


def _model_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _document(request: InferRequest) -> dict[str, Any]:
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(tensor.data)},
            }
            for tensor in request.tensors
        ],
        "outputs": [
            {"name": name, "parameters": {"binary_data": True}} for name in request.outputs
        ],
    }
    if request.classes:
        for output in document["outputs"]:
            if output["name"] == OUTPUT:
                output["parameters"]["classification"] = request.classes
    if request.parameters:
        document["parameters"] = dict(request.parameters)
    return document


def _compressed(body: Body, encoding: str) -> Body:
    whole = b"".join(body)
    # Level 1: more takes long and wins little.
    return Body([gzip.compress(whole, 1) if encoding == "gzip" else zlib.compress(whole, 1)])


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
