"""Requests over gRPC. Runs in each load process; the encoding and the metadata also in the parent.

A `GrpcLoadConnection` is a slot on a channel: each has a channel of its own up to `_MAX_CHANNELS`,
more take turns. Responses stay bytes but for the first of each slot.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ensembled_client.errors import EnsembledClientError
from ensembled_client.grpc_transport import GrpcTransport
from ensembled_client.io_backend import run_blocking
from ensembled_client.load.loops import LoadConnection, NewConnection
from ensembled_client.load.options import LoadTarget, LoadTestError, authorization
from ensembled_client.load.stats import RequestResult, error_kind, find_fault
from ensembled_client.transport import ConnectionOptions, Resource
from ensembled_client.wire import WireError
from ensembled_client.wire.messages import SERVICE, decode_response_message, message_class

__all__ = [
    "GrpcResponseChecker",
    "call_metadata",
    "fetch_grpc_metadata",
    "grpc_connections",
]

# The most channels, and so TCP connections, of a process.
_MAX_CHANNELS = 16
_INFER = f"/{SERVICE}/ModelInfer"
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Otherwise channels to the same address would share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
# An entry of the map `parameters` with the key "degraded" and the value {bool_param: true}.
_DEGRADED = re.compile(rb"\n\x08degraded\x12\x02\x08\x01")


def call_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call: the API key, if there is one."""
    return tuple((name.lower(), text) for name, text in authorization().items())


def fetch_grpc_metadata(target: LoadTarget, timeout_s: float) -> dict[str, Any]:
    """Return the metadata as HTTP has it; LoadTestError if unreachable, refused or nonsense."""
    transport = GrpcTransport(target.address, ConnectionOptions(headers=authorization()))
    look_up = transport.look_up(Resource.MODEL_METADATA, target.model, timeout_s)
    try:
        document: dict[str, Any] = run_blocking(look_up)
    except EnsembledClientError as error:
        raise LoadTestError(f"{target.url}: {' '.join(error.message.split())}") from None
    finally:
        run_blocking(transport.close())
    return document


class GrpcResponseChecker:
    """Checks the responses of one slot."""

    __slots__ = ("_checked_rows",)

    def __init__(self) -> None:
        self._checked_rows: set[int] = set()

    def check(self, response: bytes, rows: int) -> RequestResult:
        """Return how a request of so many rows ended."""
        if rows not in self._checked_rows:
            fault = _find_message_fault(response, rows)
            if fault is not None:
                return RequestResult(f"wrong response: {fault}")
            self._checked_rows.add(rows)
        elif not response:
            return RequestResult("wrong response: it is empty")
        return RequestResult(None, _DEGRADED.search(response) is not None)


def _find_message_fault(response: bytes, rows: int) -> str | None:
    try:
        message = message_class("ModelInferResponse").FromString(response)
        return find_fault(decode_response_message(message).outputs, rows)
    except (DecodeError, WireError) as error:
        return str(error)


@asynccontextmanager
async def grpc_connections(
    target: LoadTarget, count: int, connect_s: float, patience_s: float
) -> AsyncIterator[NewConnection]:
    """Open channels, and yield what makes `count` slots on them at most."""
    channels = [_new_channel(target) for _ in range(min(count, _MAX_CHANNELS))]
    turns = itertools.cycle(channels)
    try:
        yield lambda on_result: GrpcLoadConnection(on_result, next(turns), connect_s, patience_s)
    finally:
        for channel in channels:
            await channel.close()


def _new_channel(target: LoadTarget) -> Any:
    authority = target.address.authority
    if target.address.is_encrypted:
        credentials = grpc.ssl_channel_credentials()
        return grpc.aio.secure_channel(authority, credentials, _CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(authority, _CHANNEL_OPTIONS)


@dataclass(eq=False, slots=True)
class GrpcLoadConnection(LoadConnection):
    """A slot for a call on a channel, which several may share."""

    channel: Any
    connect_s: float
    patience_s: float
    _call: Any = field(init=False)
    _checker: GrpcResponseChecker = field(default_factory=GrpcResponseChecker, init=False)

    def __post_init__(self) -> None:
        """Prepare the call."""
        self._call = partial(self.channel.unary_unary(_INFER), metadata=call_metadata() or None)

    @property
    def is_open(self) -> bool:
        """Whether the channel has a connection."""
        return bool(self.channel.get_state() is grpc.ChannelConnectivity.READY)

    async def open(self) -> None:
        """Connect; OSError if that takes too long."""
        try:
            async with asyncio.timeout(self.connect_s):
                await self.channel.channel_ready()
        except TimeoutError:
            raise OSError(f"not within {self.connect_s:g} s") from None

    def send(self, request: bytes) -> None:
        """Send a request; see `LoadConnection`."""
        self.is_busy = True
        self._task = asyncio.get_running_loop().create_task(self._exchange(request))

    async def _exchange(self, request: bytes) -> None:
        try:
            response = await self._call(request, timeout=self.patience_s + 1)
        except grpc.RpcError as error:
            self._checker = GrpcResponseChecker()
            self._finish(RequestResult(error_kind(error.code().name, error.details() or "")))
        else:
            self._finish(self._checker.check(response, self.rows))

    def _abort(self) -> None:
        """Keep the channel: it is closed after the test."""
