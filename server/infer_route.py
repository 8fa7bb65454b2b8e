"""The hot path: an infer request over HTTP, as a plain ASGI application.

Runs in the front-end. FastAPI's own request handling would halve the request rate, so this route
stands beside it and does only what an inference needs: read the body once, parse its header, hand
the tensors to the gateway, write the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from server.binding import bind_images, bind_tensors
from server.errors import (
    InvalidRequest,
    QueueFull,
    RequestError,
    RequestTooLarge,
    Unavailable,
    UnknownModel,
    UnsupportedMediaType,
)
from server.front_end_spec import ModelSpec
from server.gateway import Gateway
from server.inflight import Request, StoredInput
from server.plans import Plan, PlanCache
from server.protocol import InferRequest, RequestedOutput, encode_answer, parse_request
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


class Endpoint:
    """A model, and the plans of the requests it has seen."""

    def __init__(self, model: ModelSpec) -> None:
        self.model = model
        self.plans = PlanCache()


class InferRoute:
    """``POST /v2/models/{model}[/versions/{version}]/infer``.

    Args:
        models: by name.
        gateway: where rows go.
        threads: where images are decoded.
        max_request_bytes: of a body.
        max_image_pixels: of an image.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        gateway: Gateway,
        threads: Executor,
        *,
        max_request_bytes: int,
        max_image_pixels: int,
    ) -> None:
        self._gateway = gateway
        self._threads = threads
        self._max_bytes = max_request_bytes
        self._max_pixels = max_image_pixels
        self._models = models
        self.paths = {
            f"/v2/models/{name}{version}/infer": endpoint
            for name, endpoint in ((name, Endpoint(model)) for name, model in models.items())
            for version in ("", "/versions/1")
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
        endpoint = self.paths.get(scope["path"])
        if endpoint is None:
            raise _unknown(scope["path"], self._models)
        if not self._gateway.is_open:
            raise Unavailable("the server is starting up or draining")
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise UnsupportedMediaType("Content-Encoding is not supported, send the body as it is")
        header_length = _length(
            headers.get(b"inference-header-content-length"), "Inference-Header-Content-Length"
        )
        body = await self._read_body(headers.get(b"content-length"), receive)
        request: InferRequest | Plan
        plan = endpoint.plans.find(body, header_length) if header_length is not None else None
        if plan is not None:
            request, rows, inputs = plan, plan.rows, plan.inputs(body)
        else:
            if headers.get(b"content-type", b"").startswith(b"image/"):
                request = _image_request(body, scope["query_string"])
            else:
                request = parse_request(body, header_length)
            rows, inputs = await self._bind(endpoint, request, body, header_length)
        accepted = self._gateway.submit(
            endpoint.model.served,
            inputs,
            rows,
            timeout_s=request.timeout_s,
            on_slow=partial(self._watch, receive),
        )
        answer = await accepted.future
        out, json_length = encode_answer(endpoint.model, answer, request.id, request.output)
        if json_length is None:
            return 200, out, [_JSON]
        extra = (b"inference-header-content-length", str(json_length).encode())
        return 200, out, [_RAW, extra]

    async def _bind(
        self,
        endpoint: Endpoint,
        request: InferRequest,
        body: bytes | bytearray,
        header_length: int | None,
    ) -> tuple[int, list[StoredInput]]:
        """Check a parsed request against its model; remember how, if it may come again."""
        model = endpoint.model
        if model.takes_images:
            return await bind_images(model, request.tensors, self._threads, self._max_pixels)
        rows, inputs = bind_tensors(model, request.tensors)
        if header_length is not None:
            endpoint.plans.remember(body, header_length, request, rows, inputs)
        return rows, inputs

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

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"the body is larger than the limit of {self._max_bytes} bytes")


async def _wait_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _unknown(path: str, models: Mapping[str, ModelSpec]) -> UnknownModel:
    parts = path.split("/")  # ["", "v2", "models", name, ..., "infer"]
    name = unquote(parts[3])
    return UnknownModel(name, parts[5] if name in models and len(parts) > 6 else "")


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
    return InferRequest("", [image], RequestedOutput(classes=int(given)))
