"""Requests over gRPC. Runs in each load process.

gRPC carries many calls on one connection, so lanes share channels: each has its own up to
`CHANNELS`, more take turns. A channel is a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc

from ensembled_client.load.answers import Verdict, classify
from ensembled_client.load.api_key import metadata
from ensembled_client.load.grpc_messages import INFER, GrpcJudge
from ensembled_client.load.lanes import Lane, LaneMaker, OnEnd
from ensembled_client.load.target import Target

__all__ = ["CHANNELS", "GrpcLane", "channel_options", "grpc_lanes", "rpc_error"]

#: The most connections of a process.
CHANNELS = 16

_SETTINGS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Otherwise channels to the same address would share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def channel_options() -> list[tuple[str, int]]:
    """How channels are set up."""
    return list(_SETTINGS)


def rpc_error(error: Any) -> str:
    """Return the kind of error that a failed call is."""
    return classify(error.code().name, error.details() or "")


@asynccontextmanager
async def grpc_lanes(
    target: Target, lanes: int, connect_s: float, patience_s: float
) -> AsyncIterator[LaneMaker]:
    """What makes lanes, as long as the block lasts.

    Args:
        target: who is asked.
        lanes: how many there will be at most.
        connect_s: how long connecting may take.
        patience_s: how long an answer is waited for.
    """
    channels = [_channel(target) for _ in range(min(lanes, CHANNELS))]
    methods = [
        channel.unary_unary(INFER, request_serializer=None, response_deserializer=None)
        for channel in channels
    ]
    shown = metadata()
    calls = [partial(method, metadata=shown) for method in methods] if shown else methods
    made = 0

    def make(on_end: OnEnd) -> Lane:
        nonlocal made
        number = made % len(channels)
        made += 1
        return GrpcLane(channels[number], calls[number], connect_s, patience_s, on_end)

    try:
        yield make
    finally:
        for channel in channels:
            await channel.close()


def _channel(target: Target) -> Any:
    if target.is_secure:
        credentials = grpc.ssl_channel_credentials()
        return grpc.aio.secure_channel(target.authority, credentials, channel_options())
    return grpc.aio.insecure_channel(target.authority, channel_options())


class GrpcLane(Lane):
    """A place for a call on a channel."""

    __slots__ = ("_call", "_channel", "_connect_s", "_judge", "_patience_s", "_task")

    def __init__(
        self, channel: Any, call: Any, connect_s: float, patience_s: float, on_end: OnEnd
    ) -> None:
        super().__init__(on_end)
        self._channel = channel
        self._call = call
        self._connect_s = connect_s
        self._patience_s = patience_s
        self._judge = GrpcJudge()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the channel has a connection."""
        return bool(self._channel.get_state() is grpc.ChannelConnectivity.READY)

    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: if that takes too long.
        """
        try:
            async with asyncio.timeout(self._connect_s):
                await self._channel.channel_ready()
        except TimeoutError:
            raise OSError(f"not within {self._connect_s:g} s") from None

    def send(self, request: bytes) -> None:
        """Send a request; see `Lane`."""
        self.is_busy = True
        self._task = asyncio.get_running_loop().create_task(self._exchange(request))

    async def _exchange(self, request: bytes) -> None:
        try:
            answer = await self._call(request, timeout=self._patience_s + 1)
        except grpc.RpcError as error:
            self._judge = GrpcJudge()
            self._end(Verdict(rpc_error(error)))
        else:
            self._end(self._judge.judge(answer, self.rows))

    def give_up(self, error: str) -> None:
        """Cancel the call."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.is_busy:
            self._end(Verdict(error))

    async def close(self) -> None:
        """Cancel the call that is on its way; the channel is the maker's."""
        self.is_busy = False
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
