"""The Open Inference Protocol over HTTP: what is sent. Pure.

In: requests and topics of a session. Out: calls for a transport, with headers and body made; what
comes back is read by `rest_answers`. Tensors are raw both ways (the binary tensor extension: JSON,
then the raw tensors). Requests that differ only in their raw bytes share one header, which is made
once; the server remembers its side of it, too.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from ensembled_client.addresses import Address, Options
from ensembled_client.exchange import InferRequest, Subject, Topic
from ensembled_client.wire import BINARY_CONTENT_TYPE, HEADER_LENGTH, request_header

__all__ = ["Body", "Call", "Rest"]

Headers = list[tuple[bytes, bytes]]

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


class Rest:
    """Encodes for one server.

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
        text = request_header(
            request.tensors,
            outputs=request.requested_outputs,
            parameters=dict(request.parameters),
        )
        headers = [
            *self._common,
            (b"Content-Type", BINARY_CONTENT_TYPE.encode()),
            (HEADER_LENGTH.encode(), str(len(text)).encode()),
        ]
        if self._compression is not None:
            headers.append((b"Content-Encoding", self._compression.encode()))
        if len(self._heads) >= _MAX_HEADERS:
            self._heads = {}
        self._heads[key] = text, headers
        return text, headers


@lru_cache(maxsize=256)
def _model_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _compressed(body: Body, encoding: str) -> Body:
    whole = b"".join(body)
    # Level 1: more takes long and wins little.
    return Body([gzip.compress(whole, 1) if encoding == "gzip" else zlib.compress(whole, 1)])
