"""One request in each way there is: HTTP with raw tensors or JSON, gRPC, a gRPC stream.

Runs in the campaign's event loop. Nothing is tried again here: what is checked is the server's
promise, not a client's patience.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from ensembled_client.wire import HEADER_LENGTH, InferResponse, decode_response, raw_tensor
from ensembled_client.wire.messages import (
    SERVICE,
    decode_response_message,
    message_class,
    request_message,
)

from benchmarks.chaos.scene import Floats
from benchmarks.errors import BenchmarkError
from benchmarks.infer_request import binary_request, json_request

__all__ = ["LOST", "NO_CONNECTION", "Ask", "GrpcLane", "HttpLane", "Reply", "infer_bytes"]

#: The status of a request whose connection was refused, reset or closed.
NO_CONNECTION = 0
#: The status of a request that was not answered in all the time it had.
LOST = -1
_Request = message_class("ModelInferRequest")
_Response = message_class("ModelInferResponse")
_StreamResponse = message_class("ModelStreamInferResponse")
_CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


@dataclass(frozen=True)
class Ask:
    """What is asked.

    Attributes:
        model: who.
        x: FP32 [rows, columns].
        parameters: of the request, texts and numbers.
    """

    model: str
    x: Floats
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: HTTP's, also for what gRPC said; `NO_CONNECTION` or `LOST` if nobody answered.
        values: FP32 [rows, columns] of an answer, else None.
        members: that it rests on.
        degraded: whether these are fewer than were asked.
        error: the text of a failure.
    """

    status: int
    values: Floats | None = None
    members: tuple[str, ...] = ()
    degraded: bool = False
    error: str = ""


def infer_bytes(ask: Ask, *, as_json: bool) -> bytes:
    """The whole HTTP request."""
    make = json_request if as_json else binary_request
    request = make(ask.model, "x", ask.x, ask.parameters)
    headers = {"Host": "chaos", **request.headers, "Content-Length": len(request.body)}
    lines = [f"POST {request.path} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + request.body


class HttpLane:
    """One connection, opened when it is needed; one request at a time.

    Args:
        address: HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def infer(self, ask: Ask, limit_s: float, *, as_json: bool) -> Reply:
        """Send an infer request and read its answer, which has so many seconds."""
        try:
            async with asyncio.timeout(limit_s):
                status, headers, body = await self.exchange(infer_bytes(ask, as_json=as_json))
        except TimeoutError:
            return Reply(LOST)
        if status == NO_CONNECTION:
            return Reply(status)
        if status != 200:
            return Reply(status, error=json.loads(body)["error"])
        length = headers.get(HEADER_LENGTH.lower())
        return _answered(decode_response(body, None if length is None else int(length)))

    async def get(self, path: str) -> int:
        """The status of a GET."""
        status, _, _ = await self.exchange(f"GET {path} HTTP/1.1\r\nHost: chaos\r\n\r\n".encode())
        return status

    async def exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes and read one response: status, headers, body."""
        try:
            reader, writer = await self._connect()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (ln.split(": ", 1) for ln in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
        except (OSError, EOFError):
            self.close()
            return NO_CONNECTION, {}, b""
        except BaseException:
            self.close()
            raise
        if headers.get("connection") == "close":
            self.close()
        return int(first.split()[1]), headers, body

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        return self._streams

    async def vanish(self, request: bytes, *, after_bytes: int) -> None:
        """Send only a part of a request, or all of it, and go without reading."""
        with contextlib.suppress(OSError):
            _, writer = await self._connect()
            writer.write(request[:after_bytes])
            await writer.drain()
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class GrpcLane:
    """One channel, which takes any number of calls at once.

    Args:
        address: HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL)
        self._unary = self._channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=_Request.SerializeToString,
            response_deserializer=_Response.FromString,
        )
        self._stream = self._channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=_Request.SerializeToString,
            response_deserializer=_StreamResponse.FromString,
        )

    async def infer(self, ask: Ask, limit_s: float) -> Reply:
        """Call ModelInfer, and wait at most so long."""
        try:
            call = self._unary(_request(ask, ""), timeout=limit_s, wait_for_ready=True)
            return _reply(await call)
        except grpc.aio.AioRpcError as error:
            return _failure(error)

    async def stream(self, asks: Sequence[Ask], limit_s: float) -> list[Reply]:
        """Send requests on one stream; a reply to each, in their order."""
        replies: list[Reply] = []
        requests = [_request(ask, str(number)) for number, ask in enumerate(asks)]
        try:
            call = self._stream(iter(requests), timeout=limit_s, wait_for_ready=True)
            async for answer in call:
                if answer.infer_response.id != str(len(replies)):
                    raise BenchmarkError(f"a stream's answer has id {answer.infer_response.id}")
                error = answer.error_message
                replies.append(
                    Reply(_status_of(error), error=error)
                    if error
                    else _reply(answer.infer_response)
                )
        except grpc.aio.AioRpcError as error:
            replies += [_failure(error)] * (len(asks) - len(replies))
        if len(replies) != len(asks):
            raise BenchmarkError(f"a stream of {len(asks)} has {len(replies)} answers")
        return replies

    async def vanish(self, ask: Ask, after_s: float) -> None:
        """Call ModelInfer and cancel the call."""
        call = self._unary(_request(ask, ""), wait_for_ready=True)
        await asyncio.sleep(after_s)
        call.cancel()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def _request(ask: Ask, request_id: str) -> Any:
    request = request_message(ask.model, [raw_tensor("x", ask.x)], parameters=ask.parameters)
    request.id = request_id
    return request


def _reply(message: Any) -> Reply:
    return _answered(decode_response_message(message))


def _answered(response: InferResponse) -> Reply:
    (values,) = response.outputs.values()
    members = tuple(response.parameters["members"].split(","))
    return Reply(200, values, members, response.parameters["degraded"])


#: What the server says in a text alone (in a stream), by words of it.
_WORDS = {
    "would take": 429,
    "wait": 429,
    "deadline": 504,
    "quorum of": 503,
    "draining": 503,
    "starting": 503,
}
#: grpcio's own words for a connection that broke while a call was on it.
_BROKEN = ("RST_STREAM", "Internal error from Core")
_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def _status_of(text: str) -> int:
    """HTTP's status for an error of which only the text is known."""
    return next((status for word, status in _WORDS.items() if word in text), 500)


def _failure(error: grpc.aio.AioRpcError) -> Reply:
    """What a call failed with; grpcio's own words mean a broken connection, or no answer at all."""
    name, text = error.code().name, error.details() or ""
    if name == "DEADLINE_EXCEEDED" and "quorum" not in text:
        return Reply(LOST, error=text)
    broken = name == "UNAVAILABLE" and _status_of(text) == 500
    if broken or name == "CANCELLED" or any(words in text for words in _BROKEN):
        return Reply(NO_CONNECTION, error=text)
    return Reply(_STATUS.get(name, 500), error=text)
