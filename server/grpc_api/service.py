"""The methods of GRPCInferenceService: a serialized message in, a serialized message or status out.

Runs in the front-end's event loop. Messages are serialized here rather than by gRPC, so that a
malformed one is the client's error, and nothing is parsed or copied without need. The documents of
the metadata methods are those of HTTP, so both protocols agree.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from ensembled_client.wire.messages import METHODS, SERVICE, message_class
from google.protobuf import json_format

from server.engine.memory_budget import MemoryBudget
from server.errors import DeadlineExceeded, UnknownModel
from server.grpc_api.authentication import admit_call, authorize_call, authorize_urgent
from server.grpc_api.calls import Calls, UnaryCall
from server.grpc_api.codec import (
    DecodedRequest,
    build_request,
    decode_request,
    encode_response,
    parse,
)
from server.grpc_api.core import ServerCall
from server.grpc_api.fast_infer import FastUnaryInfer, remaining_timeout_s
from server.grpc_api.repository import change_handlers
from server.grpc_api.status import log_fields, metadata_value, trace_context
from server.grpc_api.stream import InferStream
from server.inference.endpoint import Endpoint
from server.inference.inference import Inference
from server.inference.metadata import server_metadata
from server.inference.outputs import member_names, named_outputs
from server.inference.requests import InferRequest
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses
from server.security.authentication import Authenticator

if TYPE_CHECKING:
    from server.engine.tracing import RequestTrace, Tracer

__all__ = ["Service"]

_STREAM = "ModelStreamInfer"
#: Methods of Triton's service that have no messages here.
_TRITON_ONLY = tuple(
    f"{kind}SharedMemory{verb}"
    for kind in ("System", "Cuda")
    for verb in ("Status", "Register", "Unregister")
) + ("TraceSetting", "LogSettings")
_UNAVAILABLE, _UNIMPLEMENTED = (
    code.value[0] for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED)
)

Document = dict[str, Any]


class Service:
    """Dispatches calls to the methods."""

    def __init__(
        self,
        inference: Inference,
        authenticator: Authenticator,
        limits: ClientLimits,
        budget: MemoryBudget,
        unread: UnreadResponses,
    ) -> None:
        self._authenticator = authenticator
        self.calls = Calls(limits, budget, unread, authenticator, inference.unaddressed.fail)
        self._inference = inference
        self._fast = FastUnaryInfer(inference, authenticator)
        self._access, self._tracer = inference.access, inference.tracer
        self._streams: set[InferStream] = set()
        self._methods = self._by_path()

    def _by_path(self) -> dict[bytes, Callable[[ServerCall], object]]:
        handlers: dict[str, Callable[[UnaryCall, bytes], None]] = {
            name: _document_handler(name, document)
            for name, document in _documents(self._inference).items()
        }
        handlers |= change_handlers(self._inference)
        handlers["ModelInfer"] = self._infer
        methods: dict[str, Callable[[ServerCall], object]] = {
            name: _unary(self.calls, name, handler) for name, handler in handlers.items()
        }
        methods[_STREAM] = partial(self.calls.stream, self._stream)
        for name in (*METHODS, *_TRITON_ONLY):
            text = f"{name} is not supported by this server"
            methods.setdefault(name, partial(ServerCall.end, code=_UNIMPLEMENTED, text=text))
        return {f"/{SERVICE}/{name}".encode(): method for name, method in methods.items()}

    def handle(self, call: ServerCall) -> None:
        """Handle a new call."""
        method = self._methods.get(call.path)
        if method is None:
            call.end(_UNIMPLEMENTED, "there is no such method")
        else:
            method(call)

    def stop_streams(self) -> None:
        """Let each stream answer what it has read, and end."""
        for stream in self._streams:
            stream.stop()

    def _infer(self, unary: UnaryCall, message: bytes) -> None:
        if not self._fast.begin(unary, message):
            task = asyncio.get_running_loop().create_task(self._infer_slowly(unary, message))
            task.add_done_callback(lambda _: unary.release())  # even if it is cancelled at once
            unary.on_cancelled = task.cancel

    async def _infer_slowly(self, unary: UnaryCall, message: bytes) -> None:
        try:
            decoded = await self._decode(message)
            response = await self._respond(decoded, unary.call, message)
        except Exception as error:
            unary.fail(error)
        else:
            unary.succeed(response)

    async def _decode(self, message: bytes) -> DecodedRequest:
        """Decode a message; a failure can't be attributed to a model."""
        arrived = time.monotonic()
        try:
            return await decode_request(message)
        except BaseException as error:
            self._inference.unaddressed.fail(arrived, error)
            raise

    async def _respond(
        self, decoded: DecodedRequest, call: ServerCall, message: bytes = b""
    ) -> bytes:
        """Infer, log and trace; returns a serialized ModelInferResponse.

        `message` is the whole message of a unary call, which later ones may be like.
        """
        began = time.monotonic()
        trace = None if self._tracer is None else self._begin_trace(self._tracer, decoded, call)
        trace_id = "" if trace is None else trace.trace_id
        fields = partial(log_fields, call, decoded.head.model, decoded.id, trace_id)
        try:
            response = await self._run(decoded, call, message, trace)
        except BaseException as error:
            if trace is not None:
                trace.end(error)
            if not isinstance(error, Exception):
                raise
            request_error = self._access.failed(began, error, fields)
            error.__traceback__ = None  # see `status`
            raise request_error from None
        if trace is not None:
            trace.end()
        if self._access.logs_all:
            self._access.succeeded(began, fields())
        return response

    def _begin_trace(
        self, tracer: Tracer, decoded: DecodedRequest, call: ServerCall
    ) -> RequestTrace | None:
        attributes = {"rpc.system": "grpc", "ensembled.model": decoded.head.model}
        return tracer.begin(f"{SERVICE}/ModelInfer", trace_context(call.metadata), attributes)

    async def _run(
        self, decoded: DecodedRequest, call: ServerCall, message: bytes, trace: RequestTrace | None
    ) -> bytes:
        version, arrived = decoded.head.version, time.monotonic()
        try:
            found = self._inference.find(decoded.head.model, version)
        except UnknownModel as error:
            self._inference.unaddressed.fail(arrived, error)
            raise
        try:
            remaining_s = call.time_remaining()
            if remaining_s == 0:
                raise DeadlineExceeded("the deadline has passed before the request was read")
            timeout_s = remaining_timeout_s(remaining_s)
            request = await build_request(decoded)
            if not found.is_open:
                enter = self._inference.deployments.enter
                found = await enter(found, version, request, arrived, timeout_s)
        except BaseException as error:
            found.fail(arrived, error)
            raise
        found.pins += 1
        try:
            return await self._answer(
                found,
                decoded,
                request,
                call,
                message,
                arrived=arrived,
                timeout_s=timeout_s,
                trace=trace,
            )
        finally:
            found.pins -= 1

    async def _answer(
        self,
        found: Endpoint,
        decoded: DecodedRequest,
        request: InferRequest,
        call: ServerCall,
        message: bytes,
        *,
        arrived: float,
        timeout_s: float,
        trace: RequestTrace | None,
    ) -> bytes:
        """The response of the model that was found, or of another version that is rolled out."""
        endpoint, version = found, decoded.head.version
        try:
            if not version:
                header = partial(metadata_value, call.metadata)
                endpoint = self._inference.rollouts.choose(found, request, header)
            request = named_outputs(endpoint.model, request)
            if request.parameters.is_urgent:
                authorize_urgent(self._authenticator, call)
            bound = await self._inference.bind(endpoint, request)
            answer = await self._inference.answer(bound, arrived, trace, timeout_s)
            model = endpoint.model
            members = member_names(model, answer.used)
            if trace is not None:
                trace.answered(answer, members)
            outputs = await self._inference.tensors(model, answer, request.outputs)
        except BaseException as error:
            endpoint.fail(arrived, error)
            raise
        endpoint.succeed(arrived, answer)
        if message and self._inference.deployments.is_route(endpoint, version):
            self._fast.remember(message, decoded, endpoint, bound, request.outputs)
        names = ",".join(members)
        return encode_response(
            model.public,
            decoded.id,
            names,
            answer.degraded,
            outputs,
            generation=model.generation,
            variants=model.variants_text,
        )

    async def _stream(self, call: ServerCall) -> None:
        authorize_call(self._authenticator, _STREAM, call)
        stream = InferStream(self.calls, call, self._decode, self._respond_streamed)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
        if stream.was_stopped:
            call.end(_UNAVAILABLE, "the server is draining")
        else:
            call.end()

    async def _respond_streamed(self, decoded: DecodedRequest, call: ServerCall) -> bytes:
        """Each request of a stream counts as one of its client's."""
        client = admit_call(self._authenticator, _STREAM, call)
        try:
            return await self._respond(decoded, call)
        finally:
            self._authenticator.limiter.release(client)


def _unary(
    calls: Calls, method: str, handler: Callable[[UnaryCall, bytes], None]
) -> Callable[[ServerCall], object]:
    def begin(call: ServerCall) -> None:  # a closure: faster than a partial with keywords
        UnaryCall(calls, call, method, handler)

    return begin


def _documents(inference: Inference) -> dict[str, Callable[[Any], Document]]:
    """The metadata methods: by name, from a request message to its response as a document."""

    def find(request: Any) -> Endpoint:
        return inference.find(request.name, request.version)

    return {
        "ServerLive": lambda _: {"live": True},
        "ServerReady": lambda _: {"ready": inference.is_ready},
        "ModelReady": lambda request: {"ready": inference.can_answer(find(request))},
        "ServerMetadata": lambda _: server_metadata(),
        "ModelMetadata": lambda request: inference.metadata(find(request)),
        "ModelConfig": lambda request: {"config": _config(inference.config(find(request)))},
        "ModelStatistics": lambda request: inference.statistics(
            [find(request)] if request.name else None
        ),
        "RepositoryIndex": lambda request: {"models": inference.index(ready_only=request.ready)},
    }


def _document_handler(
    name: str, document: Callable[[Any], Document]
) -> Callable[[UnaryCall, bytes], None]:
    request_class = message_class(f"{name}Request")
    response_class = message_class(f"{name}Response")

    def handle(unary: UnaryCall, message: bytes) -> None:
        response = json_format.ParseDict(
            document(parse(request_class, message)), response_class(), ignore_unknown_fields=True
        )
        unary.succeed(response.SerializeToString())

    return handle


def _config(config: Document) -> Document:
    """A model's configuration; what Triton's message has no field for becomes parameters."""
    ensemble = config["ensemble"]
    more = {
        "members": ",".join(ensemble["members"]),
        "rule": ensemble["rule"],
        "quorum": str(ensemble["quorum"]),
        "deadline_ms": f"{ensemble['deadline_ms']:g}",
        "extra_outputs": ",".join(output["name"] for output in ensemble["extra_outputs"]),
    }
    if "labels" in ensemble:
        more["labels"] = "\n".join(ensemble["labels"])
    parameters = {name: {"string_value": value} for name, value in more.items()}
    return {**config, "parameters": {**config["parameters"], **parameters}}
