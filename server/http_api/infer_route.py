"""The infer route as a plain ASGI application: any infer request over HTTP, to the engine and back.

Runs in the front-end. FastAPI only documents it (`routes`): its request handling would halve the
request rate. `fast_infer` uses the plans that are made here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

from ensembled_client.wire import BINARY_CONTENT_TYPE, HEADER_LENGTH
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from allocator.dispatch.flows import NORMAL
from server.engine.memory_budget import MemoryBudget
from server.engine.request import Answer
from server.errors import (
    ClientGone,
    InternalFault,
    InvalidRequest,
    RequestTimeout,
    RequestTooLarge,
    UnknownModel,
)
from server.http_api.body import BODY_TIMEOUT, BodyReader, Disconnected, read_length
from server.http_api.incoming import BIG_ANSWER_BYTES, InferPath
from server.http_api.json_tensors import SLICE_BYTES
from server.http_api.protocol import (
    describe_answer,
    encode_answer,
    encode_in_slices,
    parse_in_slices,
    parse_request,
)
from server.http_api.request_context import RequestContext
from server.http_api.responses import LEAST_COMPRESSED_BYTES, compress_response, send_error
from server.inference.endpoint import Endpoint
from server.inference.inference import Inference
from server.inference.outputs import member_names, named_outputs, takes_long
from server.inference.parameters import IMAGE_QUERY
from server.inference.requests import (
    BoundRequest,
    InferRequest,
    RequestedOutput,
    read_parameters,
)
from server.inference.spec import ModelSpec
from server.inference.tensors import InputTensor
from server.inference.time_slicer import TimeSlicer
from server.security.authentication import Authenticator

if TYPE_CHECKING:
    from server.engine.tracing import RequestTrace, Tracer

__all__ = ["InferRoute"]

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_MAX_CLASSES_DIGITS = 18
_USE_BINARY = (
    " for JSON: send tensors as binary data, after a JSON header that gives each one's "
    f"binary_data_size and whose own length is in {HEADER_LENGTH}"
)


class InferRoute:
    """``POST /v2/models/{model}[/versions/{version}]/infer``; `paths` has those of the models.

    Bodies count against `budget` from their reading to their answers; `bodies` reads those that
    are not JSON alone.
    """

    def __init__(
        self,
        inference: Inference,
        threads: Executor,
        *,
        max_request_bytes: int,
        max_json_bytes: int,
        budget: MemoryBudget,
        authenticator: Authenticator,
    ) -> None:
        self._inference = inference
        self._engine = inference.engine
        self._access, self._tracer = inference.access, inference.tracer
        self._threads = threads
        self._authenticator = authenticator
        self._max_json_bytes = min(max_json_bytes, max_request_bytes)
        self.bodies = BodyReader(max_request_bytes, threads, budget)
        self._json_bodies = BodyReader(self._max_json_bytes, threads, budget, hint=_USE_BINARY)
        self._time_slicer = TimeSlicer()
        self.paths: dict[str, InferPath] = {}
        self._renew_paths()
        inference.deployments.on_routes(self._renew_paths)

    def _renew_paths(self) -> None:
        """Names may mean other endpoints than before."""
        inference = self._inference
        self.paths.clear()
        for endpoint in inference.endpoints.values():
            name, version = endpoint.model.public
            for suffix, meant in ("", inference.find(name)), (f"/versions/{version}", endpoint):
                path = f"/v2/models/{name}{suffix}/infer"
                self.paths[path] = InferPath(meant, inference.access, version if suffix else "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began, context = time.monotonic(), RequestContext(scope)
        try:
            response = await self._respond(context, scope, receive, began)
        except Disconnected:
            return
        except asyncio.CancelledError:
            self._access.failed(began, ClientGone(), context.log_fields)
            raise
        except Exception as error:
            public = self._access.failed(began, error, context.log_fields)
            # The traceback's frames hold the request, which holds the error: release the body now
            # and not when garbage is collected.
            error.__traceback__ = None
            if isinstance(public, InternalFault):
                context.protocol_id = public.request_id
            await send_error(public, scope, receive, context.with_request_id(send))
            return
        await response(scope, receive, context.with_request_id(send))
        if self._access.logs_all:
            self._access.succeeded(began, context.log_fields())

    async def _respond(
        self, context: RequestContext, scope: Scope, receive: Receive, began: float
    ) -> Response:
        path = self.paths.get(scope["path"])
        if path is None:
            error = self._unknown_model(scope["path"])
            self._inference.unaddressed.fail(began, error)
            raise error
        context.endpoint = path.endpoint
        trace = None if self._tracer is None else _begin_trace(self._tracer, path, scope, context)
        try:
            response = await self._infer(path, context, scope, receive, trace)
        except BaseException as error:
            context.endpoint.fail(began, error)
            if trace is not None:
                trace.end(error)
            raise
        if trace is not None:
            trace.end()
        return response

    async def _infer(
        self,
        path: InferPath,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        trace: RequestTrace | None,
    ) -> Response:
        self._engine.check_open()
        headers = dict(scope["headers"])
        header_length = read_length(headers.get(_HEADER_LENGTH), HEADER_LENGTH)
        is_json = header_length is None and not _is_image(scope)
        reader = self._json_bodies if is_json else self.bodies
        try:
            body = await reader.read(headers, receive)
        except Disconnected:
            if BODY_TIMEOUT in scope.get("extensions", ()):  # the connection has answered that
                raise RequestTimeout("the body did not come in time") from None
            raise
        arrived = time.monotonic()
        answer = partial(self._answer, arrived=arrived, headers=headers, trace=trace)
        try:
            plan = None if header_length is None else path.plans.find(body, header_length)
            if plan is not None and path.endpoint.is_open:
                return await answer(plan.bind(body), plan.outputs, context)
            if _is_image(scope):
                request = _image_request(body, scope["query_string"])
            else:
                request = await self._parse(body, header_length)
            context.protocol_id = request.id
            found = await self._enter(path, request, arrived)
            context.endpoint = found
            try:
                bound, outputs = await self._bind(path, context, request, body, header_length)
                return await answer(bound, outputs, context)
            finally:
                found.pins -= 1
        finally:
            reader.release(body)

    async def _enter(self, path: InferPath, request: InferRequest, arrived: float) -> Endpoint:
        """The endpoint of a path, which may be another one by now; it is pinned."""
        found = path.endpoint
        if not found.is_open:
            enter = self._inference.deployments.enter
            found = await enter(found, path.version, request, arrived)
        found.pins += 1
        return found

    async def _bind(
        self,
        path: InferPath,
        context: RequestContext,
        request: InferRequest,
        body: bytes | bytearray,
        header_length: int | None,
    ) -> tuple[BoundRequest, tuple[RequestedOutput, ...]]:
        """The request for the endpoint that was found, and the outputs that the client wants."""
        if not path.version:
            rollouts = self._inference.rollouts
            context.endpoint = rollouts.choose(context.endpoint, request, context.header)
        endpoint = context.endpoint
        request = named_outputs(endpoint.model, request)
        bound = await self._inference.bind(endpoint, request)
        may_repeat = endpoint is path.endpoint and not endpoint.model.takes_bytes
        if header_length is not None and may_repeat:
            path.plans.remember(body, header_length, request, bound)
        return bound, request.outputs

    async def _answer(
        self,
        bound: BoundRequest,
        outputs: tuple[RequestedOutput, ...],
        context: RequestContext,
        *,
        arrived: float,
        headers: Mapping[bytes, bytes],
        trace: RequestTrace | None,
    ) -> Response:
        if bound.prepared.options.priority != NORMAL and self._authenticator.restricts_urgent:
            self._authenticator.authorize_urgent(context.authorization)
        answer = await self._inference.answer(bound, arrived, trace)
        model = context.endpoint.model
        if trace is not None:
            trace.answered(answer, member_names(model, answer.used))
        response = await self._encode(model, answer, context.protocol_id, outputs)
        context.endpoint.succeed(arrived, answer)
        if len(response.body) >= LEAST_COMPRESSED_BYTES:
            await compress_response(response, headers.get(b"accept-encoding"), self._threads)
        return response

    async def _parse(self, body: bytes | bytearray, header_length: int | None) -> InferRequest:
        json_bytes = len(body) if header_length is None else min(header_length, len(body))
        if json_bytes < SLICE_BYTES:
            return parse_request(body, header_length)
        if json_bytes > self._max_json_bytes:
            raise RequestTooLarge(
                f"the JSON is larger than the limit of {self._max_json_bytes} bytes{_USE_BINARY}"
            )
        return await self._time_slicer.run(parse_in_slices(body, header_length))

    async def _encode(
        self,
        model: ModelSpec,
        answer: Answer,
        request_id: str,
        outputs: tuple[RequestedOutput, ...],
    ) -> Response:
        is_large = len(answer.values) * len(outputs) > BIG_ANSWER_BYTES
        # Sorting takes a while, and NumPy releases the interpreter lock for it.
        is_slow = is_large and any(output.classes for output in outputs)
        is_slow = is_slow or takes_long(model, answer, outputs)
        if not is_slow and (not is_large or all(output.binary for output in outputs)):
            body, json_length = encode_answer(model, answer, request_id, outputs)
        else:
            describe = partial(describe_answer, model, answer, request_id, outputs)
            if is_slow:
                loop = asyncio.get_running_loop()
                document, raw = await loop.run_in_executor(self._threads, describe)
            else:
                document, raw = describe()
            body, json_length = await self._time_slicer.run(encode_in_slices(document, raw))
        if json_length is None:
            return Response(body, media_type="application/json")
        headers = {HEADER_LENGTH: str(json_length)}
        return Response(body, headers=headers, media_type=BINARY_CONTENT_TYPE)

    def _unknown_model(self, path: str) -> UnknownModel:
        parts = path.split("/")  # ["", "v2", "models", name, ..., "infer"]
        name = unquote(parts[3])
        versions = self._inference.deployments.current.versions.get(name, ())
        return UnknownModel(name, parts[5] if len(parts) > 6 else "", tuple(versions))


def _begin_trace(
    tracer: Tracer, path: InferPath, scope: Scope, context: RequestContext
) -> RequestTrace | None:
    attributes = {
        "http.request.method": "POST",
        "url.path": scope["path"],
        "ensembled.model": path.endpoint.model.served.name,
    }
    trace = tracer.begin("POST /v2/models/{model}/infer", context.trace_headers(), attributes)
    if trace is not None:
        context.trace_id = trace.trace_id
    return trace


def _is_image(scope: Scope) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"image/") for name, value in scope["headers"]
    )


def _image_request(body: bytes | bytearray, query: bytes) -> InferRequest:
    """The simplest form: the body is one encoded image; ``?classification=K`` names classes.

    ``members=A,B`` is for an ensemble of which others take more than an image.
    """
    parameters = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    given = parameters.get("classification", "0")
    if not given.isdecimal() or len(given) > _MAX_CLASSES_DIGITS:
        raise InvalidRequest("classification is how many classes to name")
    image = InputTensor("image", "BYTES", [1], elements=[bytes(body)])
    return InferRequest(
        "",
        [image],
        (RequestedOutput(classes=int(given), is_default=not int(given)),),
        read_parameters({"members": parameters.get("members", "")}),
        complaint=IMAGE_QUERY.complain("query", parameters),
    )
