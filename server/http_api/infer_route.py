"""Infer requests over HTTP of any kind, as a plain ASGI application.

Runs in the front-end. FastAPI's own request handling would halve the request rate, so this route
stands beside it and does only what an inference needs: read the body once, parse its header, hand
the tensors to the engine, write the answer. What it learns about the kinds of requests that come
again, `fast_infer` goes by.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

from ensembled_client.wire import HEADER_LENGTH

from allocator.dispatch.flows import NORMAL
from server.engine.memory_budget import MemoryBudget
from server.engine.request import Answer
from server.errors import (
    ClientGone,
    InternalFault,
    InvalidRequest,
    RequestTimeout,
    UnknownModel,
)
from server.http_api import asker
from server.http_api.answers import JSON, RAW, HttpAnswer, Scope, Send, compressed, refuse
from server.http_api.body import LATE, BodyReader, Disconnected, Receive, read_length
from server.http_api.compression import LEAST_BYTES
from server.http_api.entrance import authorization_of
from server.http_api.json_tensors import SLICE_BYTES
from server.http_api.plans import BIG_ANSWER_BYTES, InferPath
from server.http_api.protocol import (
    describe_answer,
    encode_answer,
    encode_in_slices,
    parse_in_slices,
    parse_request,
)
from server.inference.inference import Inference
from server.inference.metadata import MODEL_VERSION
from server.inference.outputs import member_names
from server.inference.requests import InferRequest, RequestedOutput
from server.inference.spec import ModelSpec
from server.inference.tensors import InputTensor
from server.inference.time_slicer import Turns
from server.security.authentication import Authenticator

if TYPE_CHECKING:
    from server.engine.tracing import RequestTrace, Tracer

__all__ = ["InferRoute"]

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_MAX_CLASSES_DIGITS = 18


class InferRoute:
    """``POST /v2/models/{model}[/versions/{version}]/infer``.

    Args:
        inference: has requests answered.
        threads: where big bodies are inflated and compressed.
        max_request_bytes: of a body.
        budget: what all bodies may hold together, from their reading to their answers.
        authenticator: knows who may send urgent requests.
    """

    def __init__(
        self,
        inference: Inference,
        threads: Executor,
        *,
        max_request_bytes: int,
        budget: MemoryBudget,
        authenticator: Authenticator,
    ) -> None:
        self._inference = inference
        self._engine = inference.engine
        self._access, self._tracer = inference.access, inference.tracer
        self._threads = threads
        self._authenticator = authenticator
        self._bodies = BodyReader(max_request_bytes, threads, budget)
        self._turns = Turns()
        self.paths = {
            f"/v2/models/{name}{version}/infer": path
            for name, path in (
                (name, InferPath(at, inference.access)) for name, at in inference.endpoints.items()
            )
            for version in ("", f"/versions/{MODEL_VERSION}")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.monotonic()
        try:
            answer = await self._answer(scope, receive, began)
        except Disconnected:
            return
        except asyncio.CancelledError:
            self._access.failed(began, ClientGone(), partial(asker.about, scope))
            raise
        except Exception as error:
            told = self._access.failed(began, error, partial(asker.about, scope))
            # What it has passed through holds the request, which holds the error: let go of the
            # body now, not when the garbage is collected.
            error.__traceback__ = None
            if isinstance(told, InternalFault):
                scope["id"] = told.request_id
            await refuse(told, scope, receive, asker.echoing(scope, send))
            return
        await answer.send(send)
        if self._access.logs_all:
            self._access.succeeded(began, asker.about(scope))

    async def _answer(self, scope: Scope, receive: Receive, began: float) -> HttpAnswer:
        path = self.paths.get(scope["path"])
        if path is None:
            error = self._unknown(scope["path"])
            self._inference.unaddressed.fail(began, error)
            raise error
        trace = None if self._tracer is None else self._begin_trace(self._tracer, path, scope)
        try:
            answer = await self._infer(path, scope, receive, trace)
        except BaseException as error:
            path.endpoint.counters.fail(began, error)
            if trace is not None:
                trace.end(error)
            raise
        if trace is not None:
            trace.end()
        return answer

    def _begin_trace(self, tracer: Tracer, path: InferPath, scope: Scope) -> RequestTrace | None:
        model = path.endpoint.model.served.name
        what = {"http.request.method": "POST", "url.path": scope["path"], "ensembled.model": model}
        trace = tracer.begin("POST /v2/models/{model}/infer", asker.carrier(scope), what)
        if trace is not None:
            scope["trace_id"] = trace.trace_id
        return trace

    async def _infer(
        self, path: InferPath, scope: Scope, receive: Receive, trace: RequestTrace | None
    ) -> HttpAnswer:
        self._engine.check_open()
        headers = dict(scope["headers"])
        header_length = read_length(headers.get(_HEADER_LENGTH), HEADER_LENGTH)
        try:
            body = await self._bodies.read(headers, receive)
        except Disconnected:
            if LATE in scope.get("extensions", ()):  # the connection has answered that already
                raise RequestTimeout("the body did not come in time") from None
            raise
        try:
            return await self._predict(
                path,
                scope,
                headers=headers,
                header_length=header_length,
                body=body,
                trace=trace,
            )
        finally:
            self._bodies.release(body)

    async def _predict(
        self,
        path: InferPath,
        scope: Scope,
        *,
        headers: dict[bytes, bytes],
        header_length: int | None,
        body: bytes | bytearray,
        trace: RequestTrace | None,
    ) -> HttpAnswer:
        arrived, model = time.monotonic(), path.endpoint.model
        plan = path.plans.find(body, header_length) if header_length is not None else None
        if plan is not None:
            request_id, outputs, bound = "", plan.outputs, plan.bind(body)
        else:
            if headers.get(b"content-type", b"").startswith(b"image/"):
                request = _image_request(body, scope["query_string"])
            else:
                request = await self._parse(body, header_length)
            scope["id"] = request_id = request.id
            outputs = request.outputs
            bound = await self._inference.bind(path.endpoint, request)
            if header_length is not None and not model.takes_images:
                path.plans.remember(body, header_length, request, bound)
        if bound.prepared.options.priority != NORMAL and self._authenticator.restricts_urgent:
            self._authenticator.authorize_urgent(authorization_of(scope["headers"]))
        answer = await self._inference.answer(bound, arrived, trace)
        if trace is not None:
            trace.answered(answer, member_names(model, answer.used))
        out, json_length = await self._encode(model, answer, request_id, outputs)
        path.endpoint.counters.succeed(arrived, answer)
        described = [JSON] if json_length is None else [RAW, (_HEADER_LENGTH, b"%d" % json_length)]
        if (request_id or asker.HEADER in headers) and (named := asker.request_id(scope)):
            described.append(asker.echo(named))
        response = HttpAnswer(200, out, described)
        if len(out) < LEAST_BYTES:
            return response
        return await compressed(response, headers, self._threads)

    async def _parse(self, body: bytes | bytearray, header_length: int | None) -> InferRequest:
        if (len(body) if header_length is None else header_length) < SLICE_BYTES:
            return parse_request(body, header_length)
        return await self._turns.run(parse_in_slices(body, header_length))

    async def _encode(
        self,
        model: ModelSpec,
        answer: Answer,
        request_id: str,
        outputs: tuple[RequestedOutput, ...],
    ) -> tuple[bytes, int | None]:
        is_big = len(answer.values) * len(outputs) > BIG_ANSWER_BYTES
        has_classes = any(wanted.classes for wanted in outputs)
        if not is_big or (not has_classes and all(wanted.binary for wanted in outputs)):
            return encode_answer(model, answer, request_id, outputs)
        describe = partial(describe_answer, model, answer, request_id, outputs)
        if has_classes:  # to sort many takes a while, for which NumPy lets go of the lock
            loop = asyncio.get_running_loop()
            document, raw = await loop.run_in_executor(self._threads, describe)
        else:
            document, raw = describe()
        return await self._turns.run(encode_in_slices(document, raw))

    def _unknown(self, path: str) -> UnknownModel:
        parts = path.split("/")  # ["", "v2", "models", name, ..., "infer"]
        name = unquote(parts[3])
        known = name in self._inference.endpoints
        return UnknownModel(name, parts[5] if known and len(parts) > 6 else "")


def _image_request(body: bytes | bytearray, query: bytes) -> InferRequest:
    """The plainest form: the body is one encoded image; ``?classification=K`` names classes."""
    given = parse_qs(query.decode("latin-1")).get("classification", ["0"])[-1]
    if not given.isdecimal() or len(given) > _MAX_CLASSES_DIGITS:
        raise InvalidRequest("classification is how many classes to name")
    image = InputTensor("image", "BYTES", [1], elements=[bytes(body)])
    return InferRequest("", [image], (RequestedOutput(classes=int(given)),))
