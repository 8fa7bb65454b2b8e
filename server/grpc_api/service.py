"""The methods of GRPCInferenceService: bytes of a message in, bytes of a message or a status out.

Runs in the front-end's event loop. gRPC gives and takes serialized messages here, so that one that
is malformed is the client's error, and nothing is parsed or copied without need.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from server.engine.memory_budget import MemoryBudget
from server.errors import DeadlineExceeded, RequestError, UnknownModel
from server.front_end_spec import ClientLimits
from server.grpc_api import asker
from server.grpc_api.answers import encode_answer
from server.grpc_api.calls import Answer, Calls
from server.grpc_api.codec import Asked
from server.grpc_api.documents import documents
from server.grpc_api.endings import end, fail, text_of
from server.grpc_api.entrance import Entrance
from server.grpc_api.leftovers import Leftovers, Methods
from server.grpc_api.messages import METHODS, SERVICE
from server.grpc_api.reading import make_request, read_request
from server.grpc_api.stream import Stream
from server.inference.inference import Endpoint, Inference
from server.inference.requests import InferRequest
from server.inference.unread_answers import UnreadAnswers
from server.security.doorkeeper import Doorkeeper

if TYPE_CHECKING:
    from server.engine.tracing import RequestTrace, Tracer

__all__ = ["Service"]

_STREAM = "ModelStreamInfer"
#: A deadline is the client's: the answer must be there by then. So it is given earlier, by this
#: part of the time that is left, but not by more than so much.
_MARGIN, _MAX_MARGIN_S = 0.1, 0.1
#: Methods of Triton's service that have no messages here.
_FOREIGN = tuple(
    f"{kind}SharedMemory{verb}"
    for kind in ("System", "Cuda")
    for verb in ("Status", "Register", "Unregister")
) + ("TraceSetting", "LogSettings")

Context = Any


class Service:
    """Answers the methods.

    Args:
        inference: has requests answered.
        door: lets calls in.
        limits: what clients may take.
        budget: what all messages may hold together.
        unread: what all answers that clients do not read may hold together.

    Attributes:
        calls: all that are open.
    """

    def __init__(
        self,
        inference: Inference,
        door: Doorkeeper,
        limits: ClientLimits,
        budget: MemoryBudget,
        unread: UnreadAnswers,
    ) -> None:
        self._entrance = Entrance(door)
        self.calls = Calls(limits, budget, unread, self._entrance, inference.unaddressed.fail)
        self._inference = inference
        self._answer_streamed = self._entrance.guarded(_STREAM, self._answer)
        self._access, self._tracer = inference.access, inference.tracer
        self._streams: set[Stream] = set()
        self._leftovers = Leftovers()

    def handlers(self) -> Any:
        """What a gRPC server needs to find the methods."""
        methods = {
            name: self.calls.unary(name, _immediate(answer))
            for name, answer in documents(self._inference).items()
        }
        methods["ModelInfer"] = self.calls.unary("ModelInfer", self._infer)
        methods[_STREAM] = self.calls.stream(self._stream)
        for name in (*METHODS, *_FOREIGN):
            if name not in methods:
                methods[name] = _unsupported(name)
        by_path = {f"/{SERVICE}/{name}": method for name, method in methods.items()}
        return Methods(by_path, self._leftovers)

    def end_streams(self) -> None:
        """Let each stream answer what it has read, and end."""
        for stream in self._streams:
            stream.end()

    async def _infer(self, data: bytes, context: Context) -> bytes:
        asker.echo(context)
        return await self._answer(await self._read(data), context)

    async def _read(self, data: bytes) -> Asked:
        """Read a message; one that names no model can only be counted as that."""
        arrived = time.monotonic()
        try:
            return await read_request(data)
        except BaseException as error:
            self._inference.unaddressed.fail(arrived, error)
            raise

    async def _answer(self, asked: Asked, context: Context) -> bytes:
        began = time.monotonic()
        trace = None if self._tracer is None else self._begin_trace(self._tracer, asked, context)
        about = partial(asker.about, asked, context, "" if trace is None else trace.trace_id)
        try:
            answer = await self._inferred(asked, context, trace)
        except BaseException as error:
            if trace is not None:
                trace.end(error)
            if not isinstance(error, Exception):
                raise
            told = self._access.failed(began, error, about)
            error.__traceback__ = None  # see `endings`
            raise told from None
        if trace is not None:
            trace.end()
        if self._access.tells_all:
            self._access.succeeded(began, about())
        return answer

    def _begin_trace(self, tracer: Tracer, asked: Asked, context: Context) -> RequestTrace | None:
        what = {"rpc.system": "grpc", "ensembled.model": asked.head.model}
        return tracer.begin(f"{SERVICE}/ModelInfer", asker.carrier(context), what)

    async def _inferred(self, asked: Asked, context: Context, trace: RequestTrace | None) -> bytes:
        model, arrived = asked.head.model, time.monotonic()
        try:
            endpoint = self._inference.find(model, asked.head.version)
        except UnknownModel as error:
            self._inference.unaddressed.fail(arrived, error)
            raise
        request = await self._request(asked, endpoint, context)
        inferred = await self._inference.infer(endpoint, request, trace)
        return encode_answer(model, asked.id, inferred.members, inferred.degraded, inferred.outputs)

    async def _request(self, asked: Asked, endpoint: Endpoint, context: Context) -> InferRequest:
        """Make the request; one that is refused counts as a failure of the model that it names."""
        arrived = time.monotonic()
        try:
            left_s = context.time_remaining()
            if left_s is not None:
                left_s -= min(left_s * _MARGIN, _MAX_MARGIN_S)
                if left_s <= 0:
                    raise DeadlineExceeded("the deadline has passed before the request was read")
            request = await make_request(asked, left_s)
            if request.parameters.is_urgent:
                self._entrance.check_urgent(context)
        except BaseException as error:
            endpoint.counters.fail(arrived, error)
            raise
        return request

    async def _stream(self, messages: AsyncIterator[bytes], context: Context) -> None:
        asker.echo(context)
        try:
            self._entrance.check(_STREAM, context)
        except RequestError as error:
            fail(context, error)
            return
        stream = Stream(
            messages,
            context,
            self._read,
            self._answer_streamed,
            text_of,
            holding=self.calls.holding,
            write=self.calls.write,
            taker=self.calls.taker(context),
        )
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
        if stream.was_ended:
            end(context, grpc.StatusCode.UNAVAILABLE, "the server is draining")


def _immediate(answer: Callable[[bytes], bytes]) -> Answer:
    async def method(data: bytes, _: Context) -> bytes:
        return answer(data)

    return method


def _unsupported(name: str) -> Any:
    async def method(_: AsyncIterator[bytes], context: Context) -> None:
        text = f"{name} is not supported by this server"
        end(context, grpc.StatusCode.UNIMPLEMENTED, text)

    return grpc.stream_unary_rpc_method_handler(method)
