"""The methods of GRPCInferenceService: bytes of a message in, bytes of a message or a status out.

Runs in the front-end's event loop. Messages are serialized here, so that one that is malformed is
the client's error, and nothing is parsed or copied without need.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import grpc
from ensembled_client.wire.messages import METHODS, SERVICE

from server.engine.memory_budget import MemoryBudget
from server.errors import DeadlineExceeded, UnknownModel
from server.grpc_api.answers import encode_answer
from server.grpc_api.calls import Calls, Unary
from server.grpc_api.codec import Asked
from server.grpc_api.core import Call
from server.grpc_api.documents import documents
from server.grpc_api.entrance import Entrance
from server.grpc_api.fast_infer import FastInfer, answer_within_s
from server.grpc_api.metadata import about, trace_context
from server.grpc_api.reading import make_request, read_request
from server.grpc_api.stream import Stream
from server.inference.inference import Endpoint, Inference
from server.inference.requests import InferRequest
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses
from server.security.authentication import Authenticator

if TYPE_CHECKING:
    from server.engine.tracing import RequestTrace, Tracer

__all__ = ["Service"]

_STREAM = "ModelStreamInfer"
#: Methods of Triton's service that have no messages here.
_FOREIGN = tuple(
    f"{kind}SharedMemory{verb}"
    for kind in ("System", "Cuda")
    for verb in ("Status", "Register", "Unregister")
) + ("TraceSetting", "LogSettings")
_UNAVAILABLE, _UNIMPLEMENTED = (
    code.value[0] for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED)
)


class Service:
    """Answers the methods.

    Args:
        inference: has requests answered.
        authenticator: authenticates clients.
        limits: what clients may take.
        budget: what all messages may hold together.
        unread: what all answers that clients do not read may hold together.

    Attributes:
        calls: all that are open.
    """

    def __init__(
        self,
        inference: Inference,
        authenticator: Authenticator,
        limits: ClientLimits,
        budget: MemoryBudget,
        unread: UnreadResponses,
    ) -> None:
        self._entrance = Entrance(authenticator)
        self.calls = Calls(limits, budget, unread, self._entrance, inference.unaddressed.fail)
        self._inference = inference
        self._fast = FastInfer(inference, self._entrance)
        self._access, self._tracer = inference.access, inference.tracer
        self._streams: set[Stream] = set()
        self._methods = self._by_path()

    def _by_path(self) -> dict[bytes, Callable[[Call], None]]:
        methods = {
            name: self.calls.unary(name, _immediate(answer))
            for name, answer in documents(self._inference).items()
        }
        methods["ModelInfer"] = self.calls.unary("ModelInfer", self._infer)
        methods[_STREAM] = self.calls.stream(self._stream)
        for name in (*METHODS, *_FOREIGN):
            if name not in methods:
                methods[name] = _unsupported(name)
        return {f"/{SERVICE}/{name}".encode(): method for name, method in methods.items()}

    def take(self, call: Call) -> None:
        """Take a call."""
        method = self._methods.get(call.path)
        if method is None:
            call.end(_UNIMPLEMENTED, "there is no such method")
        else:
            method(call)

    def end_streams(self) -> None:
        """Let each stream answer what it has read, and end."""
        for stream in self._streams:
            stream.end()

    def _infer(self, unary: Unary, message: bytes) -> None:
        if not self._fast.begin(unary, message):
            task = asyncio.get_running_loop().create_task(self._infer_slowly(unary, message))
            task.add_done_callback(lambda _: unary.leave())  # even if it is cancelled at once
            unary.on_cancelled = task.cancel

    async def _infer_slowly(self, unary: Unary, message: bytes) -> None:
        try:
            asked = await self._read(message)
            answer = await self._answer(asked, unary.call, message)
        except Exception as error:
            unary.fail(error)
        else:
            unary.succeed(answer)

    async def _read(self, data: bytes) -> Asked:
        """Read a message; one that names no model can only be counted as that."""
        arrived = time.monotonic()
        try:
            return await read_request(data)
        except BaseException as error:
            self._inference.unaddressed.fail(arrived, error)
            raise

    async def _answer(self, asked: Asked, call: Call, message: bytes = b"") -> bytes:
        """The answer; `message` is all of the call's, if others may be like it."""
        began = time.monotonic()
        trace = None if self._tracer is None else self._begin_trace(self._tracer, asked, call)
        trace_id = "" if trace is None else trace.trace_id
        described = partial(about, call, asked.head.model, asked.id, trace_id)
        try:
            answer = await self._inferred(asked, call, message, trace)
        except BaseException as error:
            if trace is not None:
                trace.end(error)
            if not isinstance(error, Exception):
                raise
            told = self._access.failed(began, error, described)
            error.__traceback__ = None  # see `status`
            raise told from None
        if trace is not None:
            trace.end()
        if self._access.logs_all:
            self._access.succeeded(began, described())
        return answer

    def _begin_trace(self, tracer: Tracer, asked: Asked, call: Call) -> RequestTrace | None:
        what = {"rpc.system": "grpc", "ensembled.model": asked.head.model}
        return tracer.begin(f"{SERVICE}/ModelInfer", trace_context(call.metadata), what)

    async def _inferred(
        self, asked: Asked, call: Call, message: bytes, trace: RequestTrace | None
    ) -> bytes:
        model, arrived = asked.head.model, time.monotonic()
        try:
            endpoint = self._inference.find(model, asked.head.version)
        except UnknownModel as error:
            self._inference.unaddressed.fail(arrived, error)
            raise
        within_s = answer_within_s(call.time_remaining())
        request = await self._request(asked, endpoint, call)
        inferred = await self._inference.infer(endpoint, request, within_s, trace)
        if message:
            self._fast.remember(message, asked, endpoint, inferred.bound)
        return encode_answer(model, asked.id, inferred.members, inferred.degraded, inferred.outputs)

    async def _request(self, asked: Asked, endpoint: Endpoint, call: Call) -> InferRequest:
        """Make the request; one that is refused counts as a failure of the model that it names."""
        arrived = time.monotonic()
        try:
            if call.time_remaining() == 0:
                raise DeadlineExceeded("the deadline has passed before the request was read")
            request = await make_request(asked)
            if request.parameters.is_urgent:
                self._entrance.check_urgent(call)
        except BaseException as error:
            endpoint.counters.fail(arrived, error)
            raise
        return request

    async def _stream(self, call: Call) -> None:
        self._entrance.check(_STREAM, call)
        stream = Stream(self.calls, call, self._read, self._answer_streamed)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
        if stream.was_ended:
            call.end(_UNAVAILABLE, "the server is draining")
        else:
            call.end()

    async def _answer_streamed(self, asked: Asked, call: Call) -> bytes:
        """Each request of a stream counts as one of its client's."""
        client = self._entrance.admit(_STREAM, call)
        try:
            return await self._answer(asked, call)
        finally:
            self._entrance.leave(client)


def _immediate(answer: Callable[[bytes], bytes]) -> Callable[[Unary, bytes], None]:
    def handle(unary: Unary, message: bytes) -> None:
        unary.succeed(answer(message))

    return handle


def _unsupported(name: str) -> Callable[[Call], None]:
    def take(call: Call) -> None:
        call.end(_UNIMPLEMENTED, f"{name} is not supported by this server")

    return take
