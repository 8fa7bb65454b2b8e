"""gRPC with grpcio: blocking, and for asyncio. Needs `ensembled-client[grpc]`.

Runs in the caller's process. One channel, and with it one connection, serves any number of calls
at once. Messages have no size limit here: the server's own is known and kept to.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import grpc

from ensembled_client.addresses import Address, Options
from ensembled_client.errors import EnsembledClientError, Unavailable, error_for_status
from ensembled_client.exchange import InferRequest, Link, Topic
from ensembled_client.open_inference import (
    answer_of,
    document_of,
    infer_message,
    overhead_bytes,
    question,
)
from ensembled_client.wire import InferResponse
from ensembled_client.wire.messages import SERVICE, message_class

__all__ = ["AsyncGrpcLink", "GrpcLink"]

_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that is starting is found soon; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that was restarted on the same port is not spoken to by an old subchannel.
    ("grpc.use_local_subchannel_pool", 1),
]

#: The status that HTTP has for what a gRPC server answers.
_STATUSES = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# In the library's text if it never got a connection. Should its words change, such requests are
# not tried again any more.
_NEVER_SENT = "failed to connect"


class _GrpcLink(Link):
    """What both have in common: everything but the call."""

    def __init__(self, address: Address, options: Options) -> None:
        self._address = address
        self._options = options
        self._metadata = tuple((name.lower(), text) for name, text in options.headers.items())
        self._methods: dict[str, Any] = {}

    async def infer(self, request: InferRequest, limit_s: float | None) -> InferResponse:
        """Have a model predict."""
        return answer_of(await self._call("ModelInfer", infer_message(request), limit_s))

    async def look_up(self, topic: Topic, limit_s: float) -> Any:
        """Ask about something."""
        method, message = question(topic)
        return document_of(topic, await self._call(method, message, limit_s))

    def overhead_bytes(self, request: InferRequest) -> int:
        """Return how much of a request's message is not raw tensors."""
        return overhead_bytes(request)

    @abstractmethod
    async def _call(self, method: str, message: Any, limit_s: float | None) -> Any:
        """Call a method."""

    def _method(self, channel: Any, method: str) -> Any:
        """The callable of a method; made once."""
        if method not in self._methods:
            self._methods[method] = channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=message_class(f"{method}Request").SerializeToString,
                response_deserializer=message_class(f"{method}Response").FromString,
            )
        return self._methods[method]

    def _channel(self, library: Any) -> Any:
        """A channel of grpc or of grpc.aio."""
        settings: dict[str, Any] = {"options": _CHANNEL}
        if self._options.compression is not None:
            settings["compression"] = {
                "gzip": grpc.Compression.Gzip,
                "deflate": grpc.Compression.Deflate,
            }[self._options.compression]
        if not self._address.is_encrypted:
            return library.insecure_channel(self._address.authority, **settings)
        options = self._options
        credentials = grpc.ssl_channel_credentials(
            _contents(options.root_certificates),
            _contents(options.key),
            _contents(options.certificate),
        )
        return library.secure_channel(self._address.authority, credentials, **settings)


def _contents(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


class GrpcLink(_GrpcLink):
    """Blocking; may be shared by threads."""

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address, options)
        self._open = self._channel(grpc)

    async def _call(self, method: str, message: Any, limit_s: float | None) -> Any:
        call = self._method(self._open, method)
        try:
            return call(message, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _typed(error) from error

    async def close(self) -> None:
        """Close the connection."""
        self._open.close()


class AsyncGrpcLink(_GrpcLink):
    """For asyncio; may be shared by the tasks of one event loop."""

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address, options)
        # A channel belongs to the loop that runs when it is made: not yet.
        self._open: Any = None

    async def _call(self, method: str, message: Any, limit_s: float | None) -> Any:
        if self._open is None:
            self._open = self._channel(grpc.aio)
        call = self._method(self._open, method)
        try:
            return await call(message, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _typed(error) from error

    async def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            await self._open.close()


def _typed(error: Any) -> EnsembledClientError:
    """Return what it means that a call failed; `error` is a finished call, too."""
    code, text = error.code(), error.details() or ""
    retry_after_s = _retry_after_s(error.trailing_metadata())
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Without it, it is the message that was too large.
        return error_for_status(413 if retry_after_s is None else 429, text, retry_after_s)
    if code is not grpc.StatusCode.UNAVAILABLE or retry_after_s is not None:
        return error_for_status(_STATUSES.get(code, 500), text or code.name, retry_after_s)
    if _NEVER_SENT in text:
        return Unavailable(f"the server can't be reached ({text})", safe_to_retry=True)
    # The server's own answer, or a connection that broke: the library does not tell which.
    return Unavailable(text, _STATUSES[code])


def _retry_after_s(metadata: Any) -> float | None:
    for name, value in metadata or ():
        if name == "retry-after":
            try:
                seconds = float(value)
            except ValueError:
                return None
            return seconds if 0 <= seconds < math.inf else None
    return None
