"""The Open Inference Protocol over HTTP: calls as HTTP requests, HTTP responses decoded. Pure.

Tensors are raw both ways (the binary tensor extension). Requests that differ only in their raw
bytes share one header, which is made once; the server caches its side of it, too.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from ensembled_client.changes import ChangeCall
from ensembled_client.errors import (
    RequestRejected,
    ServerFailure,
    error_for_status,
    parse_retry_after,
)
from ensembled_client.requests import InferCall
from ensembled_client.transport import Address, ConnectionOptions, Resource
from ensembled_client.wire import (
    BINARY_CONTENT_TYPE,
    HEADER_LENGTH,
    InferResponse,
    WireError,
    decode_response,
    request_header,
)

__all__ = [
    "RequestBody",
    "RestEncoder",
    "RestRequest",
    "RestResponse",
    "decode_change",
    "decode_document",
    "decode_infer",
]

Headers = list[tuple[bytes, bytes]]

_HEADER_LENGTH = HEADER_LENGTH.encode()
_MAX_HEADERS = 256
_JOINED_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 20
_PATHS = {
    Resource.SERVER_METADATA: "/v2",
    Resource.SERVER_LIVE: "/v2/health/live",
    Resource.SERVER_READY: "/v2/health/ready",
    Resource.REPOSITORY_INDEX: "/v2/repository/index",
    Resource.STATISTICS: "/v2/models/stats",
}
_MODEL_PATHS = {
    Resource.MODEL_METADATA: "",
    Resource.MODEL_CONFIG: "/config",
    Resource.STATISTICS: "/stats",
    Resource.MODEL_READY: "/ready",
}
_BOOLEANS = {Resource.SERVER_LIVE, Resource.SERVER_READY, Resource.MODEL_READY}


class RequestBody:
    """A body to be sent: in one piece if it is small, else in chunks, none of them copied."""

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        self.size_bytes = sum(len(part) for part in parts)
        if self.size_bytes <= _JOINED_BYTES:
            parts = [b"".join(parts)]
        self._parts = parts

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the chunks."""
        for part in self._parts:
            view = memoryview(part)
            for start in range(0, len(part), _CHUNK_BYTES):
                chunk = view[start : start + _CHUNK_BYTES]
                yield part if len(chunk) == len(part) else chunk

    async def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        """Yield the chunks."""
        for chunk in self:
            yield chunk


@dataclass(frozen=True)
class RestRequest:
    """An HTTP request."""

    method: bytes
    target: bytes
    headers: Headers
    body: RequestBody | None = None


class RestEncoder:
    """Encodes calls to one server, with the headers and the compression of the options."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
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

    def infer(self, call: InferCall) -> RestRequest:
        """Return the request that has a model predict."""
        head, headers = self._head(call)
        body = RequestBody([head, *(tensor.data for tensor in call.tensors)])
        if self._compression is not None:
            body = _compressed(body, self._compression)
        length = (b"Content-Length", str(body.size_bytes).encode())
        target = self._target(f"{_model_path(call.model, call.version)}/infer")
        return RestRequest(b"POST", target, [*headers, length], body)

    def overhead_bytes(self, call: InferCall) -> int:
        """Return how much of a request's body is not raw tensors, at most."""
        return len(self._head(call)[0]) + 16

    def look_up(self, resource: Resource, model: str = "", version: str = "") -> RestRequest:
        """Return the request for a document."""
        path = _model_path(model, version) + _MODEL_PATHS[resource] if model else _PATHS[resource]
        if resource is Resource.REPOSITORY_INDEX:
            headers = [*self._common, (b"Content-Length", b"0")]
            return RestRequest(b"POST", self._target(path), headers)
        return RestRequest(b"GET", self._target(path), self._common)

    def change(self, call: ChangeCall) -> RestRequest:
        """Return the request for a change."""
        parameters = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in call.parameters.items()
        }
        path = f"/v2/repository/models/{quote(call.model, safe='')}/{call.kind}"
        document: Any = {"parameters": parameters}
        if call.kind == "reload":
            path, document = "/v2/repository/reload", parameters
        elif call.kind == "place":
            query = "?dry_run=true" if parameters["dry_run"] else ""
            path, document = (
                f"/v2/repository/placement{query}",
                json.loads(str(parameters["allocation"])),
            )
        elif call.kind == "rollout":
            path, document = f"{_model_path(call.model)}/rollout", parameters
        body = RequestBody([json.dumps(document).encode()])
        headers = [
            *self._common,
            (b"Content-Type", b"application/json"),
            (b"Content-Length", str(body.size_bytes).encode()),
        ]
        return RestRequest(b"POST", self._target(path), headers, body)

    def _target(self, path: str) -> bytes:
        return f"{self._path}{path}".encode("ascii")

    def _head(self, call: InferCall) -> tuple[bytes, Headers]:
        """The JSON of a call and its HTTP headers but for the length of the whole."""
        tensors = [(one.name, one.datatype, one.shape, len(one.data)) for one in call.tensors]
        key = (tuple(call.outputs.items()), tuple(call.parameters.items()), *tensors)
        cached = self._heads.get(key)
        if cached is not None:
            return cached
        text = request_header(call.tensors, outputs=call.outputs, parameters=call.parameters)
        headers = [
            *self._common,
            (b"Content-Type", BINARY_CONTENT_TYPE.encode()),
            (_HEADER_LENGTH, str(len(text)).encode()),
        ]
        if self._compression is not None:
            headers.append((b"Content-Encoding", self._compression.encode()))
        if len(self._heads) >= _MAX_HEADERS:
            self._heads = {}
        self._heads[key] = text, headers
        return text, headers


@lru_cache(maxsize=256)
def _model_path(model: str, version: str = "") -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _compressed(body: RequestBody, encoding: str) -> RequestBody:
    whole = b"".join(body)
    # Level 1: more takes long and wins little.
    compressed = gzip.compress(whole, 1) if encoding == "gzip" else zlib.compress(whole, 1)
    return RequestBody([compressed])


@dataclass(frozen=True)
class RestResponse:
    """An HTTP response; headers as they came."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return a header's value; `name` is in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


def decode_infer(response: RestResponse) -> InferResponse:
    """Decode the response to an infer request, or raise the EnsembledClientError in it."""
    _raise_for_status(response)
    length = response.header(_HEADER_LENGTH.lower())
    if length is not None and not length.isdigit():
        raise ServerFailure(f"the server's header {HEADER_LENGTH} is {length!r}", response.status)
    try:
        return decode_response(response.body, None if length is None else int(length))
    except WireError as error:
        raise ServerFailure(f"the server's answer can't be understood: {error}") from error


def decode_document(resource: Resource, response: RestResponse) -> Any:
    """Decode the response to a look-up: a bool, an object, or the index's list.

    Raises the EnsembledClientError that it carries instead.
    """
    if resource in _BOOLEANS and response.status in {200, 503}:
        return response.status == HTTPStatus.OK
    _raise_for_status(response)
    expected = list if resource is Resource.REPOSITORY_INDEX else dict
    try:
        document = json.loads(response.body)
    except ValueError:
        document = None
    if not isinstance(document, expected):
        kind = "a JSON array" if expected is list else "a JSON object"
        raise ServerFailure(f"the server's answer is not {kind}", response.status)
    return document


def decode_change(response: RestResponse) -> Any:
    """Decode the response to a change, {} if there is no JSON; or raise the error in it."""
    _raise_for_status(response)
    try:
        return json.loads(response.body)
    except ValueError:
        return {}


def _raise_for_status(response: RestResponse) -> None:
    if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
        return
    try:
        text = str(json.loads(response.body)["error"])
    except (ValueError, KeyError, TypeError):
        try:
            phrase = HTTPStatus(response.status).phrase
        except ValueError:
            phrase = "from the server"
        text = f"{response.status} {phrase}"
    if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST:
        raise RequestRejected(f"{text}: the server is somewhere else", response.status)
    raise error_for_status(
        response.status, text, parse_retry_after(response.header(b"retry-after"))
    )
