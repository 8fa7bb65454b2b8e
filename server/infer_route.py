"""The hot path: an infer request over HTTP, as a plain ASGI application.

Runs in the front-end. FastAPI's own request handling would halve the request rate, so this route
stands beside it and does only what an inference needs: read the body once, parse its header, hand
the tensors to the gateway, write the answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from server.accepted import Request
from server.descriptions import MODEL_VERSION
from server.errors import (
    InvalidRequest,
    QueueFull,
    RequestError,
    RequestTooLarge,
    Unavailable,
    UnknownModel,
    UnsupportedMediaType,
)
from server.inference import Endpoint, Inference
from server.plans import PlanCache
from server.protocol import encode_answer, parse_request
from server.requests import InferRequest, WantedOutput
from server.tensors import Tensor

__all__ = ["InferRoute", "error_response"]

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_RAW = (b"content-type", b"application/octet-stream")
_MAX_LENGTH_DIGITS = 18


class _Disconnected(Exception):
    """The client has gone; nobody is there to answer."""


def error_response(error: RequestError) -> tuple[int, bytes, Headers]:
    """Status, body and extra headers of an error, in the protocol's shape."""
    headers: Headers = []
    if isinstance(error, QueueFull):
        headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
    if isinstance(error, RequestTooLarge):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    return error.http_status, orjson.dumps({"error": error.message}), headers


class _Path:
    """Where a model is asked, and the plans of the requests it has seen."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.plans = PlanCache()


class InferRoute:
    """``POST /v2/models/{model}[/versions/{version}]/infer``.

    Args:
        inference: has requests answered.
        max_request_bytes: of a body.
    """

    def __init__(self, inference: Inference, *, max_request_bytes: int) -> None:
        self._inference = inference
        self._gateway = inference.gateway
        self._max_bytes = max_request_bytes
        self.paths = {
            f"/v2/models/{name}{version}/infer": path
            for name, path in ((name, _Path(at)) for name, at in inference.endpoints.items())
            for version in ("", f"/versions/{MODEL_VERSION}")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status, body, headers = await self._answer(scope, receive)
        except RequestError as error:
            status, body, extra = error_response(error)
            headers = [_JSON, *extra]
        except _Disconnected:
            return
        except Exception:
            _log.exception("a request failed")
            status, headers = 500, [_JSON]
            body = orjson.dumps({"error": "internal error, see the server's log"})
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes, Headers]:
        path = self.paths.get(scope["path"])
        if path is None:
            raise self._unknown(scope["path"])
        began = time.monotonic()
        try:
            return await self._infer(path, scope, receive)
        except BaseException:
            path.endpoint.counters.fail(began)
            raise

    async def _infer(
        self, path: _Path, scope: Scope, receive: Receive
    ) -> tuple[int, bytes, Headers]:
        if not self._gateway.is_open:
            raise Unavailable("the server is starting up or draining")
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise UnsupportedMediaType("Content-Encoding is not supported, send the body as it is")
        header_length = _length(
            headers.get(b"inference-header-content-length"), "Inference-Header-Content-Length"
        )
        body = await self._read_body(headers.get(b"content-length"), receive)
        arrived, model = time.monotonic(), path.endpoint.model
        plan = path.plans.find(body, header_length) if header_length is not None else None
        if plan is not None:
            request_id, outputs, bound = "", plan.outputs, plan.bind(body)
        else:
            if headers.get(b"content-type", b"").startswith(b"image/"):
                request = _image_request(body, scope["query_string"])
            else:
                request = parse_request(body, header_length)
            request_id, outputs = request.id, request.outputs
            bound = await self._inference.bind(path.endpoint, request)
            if header_length is not None and not model.takes_images:
                path.plans.remember(body, header_length, request, bound)
        accepted = self._gateway.submit(model.served, bound, on_slow=partial(self._watch, receive))
        answer = await accepted.future
        out, json_length = encode_answer(model, answer, request_id, outputs)
        path.endpoint.counters.succeed(arrived, answer)
        if json_length is None:
            return 200, out, [_JSON]
        extra = (b"inference-header-content-length", str(json_length).encode())
        return 200, out, [_RAW, extra]

    def _watch(self, receive: Receive, accepted: Request) -> None:
        """Watch the connection of a client that has been waiting for a while."""
        watcher = asyncio.create_task(_wait_disconnect(receive))
        accepted.future.add_done_callback(lambda _: watcher.cancel())
        watcher.add_done_callback(
            lambda _: self._gateway.close(accepted, Unavailable("the client has gone"))
        )

    async def _read_body(self, length: bytes | None, receive: Receive) -> bytes | bytearray:
        """Read the whole body: in one piece as it comes, in several into one buffer."""
        announced = _length(length, "Content-Length")
        if announced is not None and announced > self._max_bytes:
            raise self._too_large()
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        first: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(first) > self._max_bytes:
                raise self._too_large()
            return first
        buffer = bytearray(announced) if announced is not None else bytearray(first)
        buffer[: len(first)] = first
        position = len(first)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            chunk = message.get("body", b"")
            if position + len(chunk) > self._max_bytes:
                raise self._too_large()
            buffer[position : position + len(chunk)] = chunk
            position += len(chunk)
        return buffer

    def _unknown(self, path: str) -> UnknownModel:
        parts = path.split("/")  # ["", "v2", "models", name, ..., "infer"]
        name = unquote(parts[3])
        known = name in self._inference.endpoints
        return UnknownModel(name, parts[5] if known and len(parts) > 6 else "")

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"the body is larger than the limit of {self._max_bytes} bytes")


async def _wait_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _length(value: bytes | None, header: str) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise InvalidRequest(f"{header} is not a length")
    return int(value)


def _image_request(body: bytes | bytearray, query: bytes) -> InferRequest:
    """The plainest form: the body is one encoded image; ``?classification=K`` names classes."""
    given = parse_qs(query.decode("latin-1")).get("classification", ["0"])[-1]
    if not given.isdecimal() or len(given) > _MAX_LENGTH_DIGITS:
        raise InvalidRequest("classification is how many classes to name")
    image = Tensor("image", "BYTES", [1], elements=[bytes(body)])
    return InferRequest("", [image], (WantedOutput(classes=int(given)),))
