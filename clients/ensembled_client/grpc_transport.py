"""The Open Inference Protocol over gRPC: blocking, and for asyncio. Needs `ensembled-client[grpc]`.

One channel, and with it one connection, serves any number of concurrent calls. Messages have no
size limit here: the session keeps to the server's own.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from ensembled_client.changes import ChangeCall
from ensembled_client.errors import (
    EnsembledClientError,
    RequestRejected,
    ServerFailure,
    Unavailable,
    error_for_status,
    parse_retry_after,
)
from ensembled_client.requests import InferCall
from ensembled_client.transport import Address, ConnectionOptions, Resource, Transport
from ensembled_client.wire import InferResponse, WireError
from ensembled_client.wire.messages import (
    SERVICE,
    decode_response_message,
    message_class,
    request_message,
)

__all__ = ["AsyncGrpcTransport", "GrpcTransport"]

_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that is starting is found soon; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that was restarted on the same port is not reached by an old subchannel.
    ("grpc.use_local_subchannel_pool", 1),
]
#: What a request's tensors and raw contents need beside their bytes: lengths and tags.
_FRAMING_BYTES = 16

#: The field of a response that is the document over HTTP, where that is not all of it.
_DOCUMENT_FIELDS = {
    Resource.SERVER_LIVE: "live",
    Resource.SERVER_READY: "ready",
    Resource.MODEL_READY: "ready",
    Resource.REPOSITORY_INDEX: "models",
    Resource.MODEL_CONFIG: "config",
}

#: The HTTP statuses that correspond to gRPC's.
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
# In grpcio's text if it never got a connection. Should its words change, such requests are not
# retried any more.
_NEVER_SENT = "failed to connect"


class _GrpcTransport(Transport):
    """Everything but the call."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        self._address = address
        self._options = options
        self._metadata = tuple((name.lower(), text) for name, text in options.headers.items())
        self._methods: dict[str, Any] = {}

    async def infer(self, call: InferCall, limit_s: float | None) -> InferResponse:
        """Have a model predict."""
        response = await self._call("ModelInfer", _infer_message(call), limit_s)
        try:
            return decode_response_message(response)
        except WireError as error:
            raise ServerFailure(f"the server's answer can't be understood: {error}") from error

    async def look_up(
        self, resource: Resource, model: str, limit_s: float, version: str = ""
    ) -> Any:
        """Request a document."""
        named = {"name": model, "version": version} if model else {}
        message = message_class(f"{resource.value}Request")(**named)
        document = _plain(await self._call(resource.value, message, limit_s))
        field = _DOCUMENT_FIELDS.get(resource)
        return document if field is None else document[field]

    async def change(self, call: ChangeCall, limit_s: float | None) -> Any:
        """Have the server change what it serves."""
        if call.kind in {"reload", "place", "rollout"}:
            raise RequestRejected(
                f"a {call.kind} is not part of the protocol over gRPC: use http://"
            )
        method = f"RepositoryModel{call.kind.capitalize()}"
        message = message_class(f"{method}Request")(model_name=call.model)
        for name, value in call.parameters.items():
            if isinstance(value, bool):
                message.parameters[name].bool_param = value
            elif isinstance(value, bytes):
                message.parameters[name].bytes_param = value
            else:
                message.parameters[name].string_param = value
        await self._call(method, message, limit_s)
        return {}

    def overhead_bytes(self, call: InferCall) -> int:
        """Return how much of a request's message is not raw tensors."""
        size: int = _infer_message(call, with_data=False).ByteSize()
        return size + _FRAMING_BYTES * (1 + len(call.tensors))

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

    def _open_channel(self, library: Any) -> Any:
        """A channel of grpc or of grpc.aio."""
        settings: dict[str, Any] = {"options": _CHANNEL}
        if self._options.compression is not None:
            settings["compression"] = grpc.Compression[self._options.compression.capitalize()]
        if not self._address.is_encrypted:
            return library.insecure_channel(self._address.authority, **settings)
        options = self._options
        credentials = grpc.ssl_channel_credentials(
            _contents(options.root_certificates),
            _contents(options.key),
            _contents(options.certificate),
        )
        return library.secure_channel(self._address.authority, credentials, **settings)


def _infer_message(call: InferCall, *, with_data: bool = True) -> Any:
    return request_message(
        call.model,
        call.tensors,
        outputs=call.outputs,
        parameters=call.parameters,
        version=call.version,
        with_data=with_data,
    )


def _plain(value: Any) -> Any:
    """A message as a dictionary of all its fields, those that are 0 or empty included."""
    if not isinstance(value, Message):
        return value
    document: dict[str, Any] = {}
    for field in value.DESCRIPTOR.fields:
        held = getattr(value, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            document[field.name] = {key: _plain(held[key]) for key in held}
        elif field.is_repeated:
            document[field.name] = [_plain(one) for one in held]
        elif field.enum_type is not None:
            document[field.name] = field.enum_type.values_by_number[held].name
        else:
            document[field.name] = _plain(held)
    return document


def _contents(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


class GrpcTransport(_GrpcTransport):
    """Blocking; may be shared by threads."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        super().__init__(address, options)
        self._channel = self._open_channel(grpc)

    async def _call(self, method: str, message: Any, limit_s: float | None) -> Any:
        call = self._method(self._channel, method)
        try:
            return call(message, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _client_error(error) from error

    async def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class AsyncGrpcTransport(_GrpcTransport):
    """For asyncio; may be shared by the tasks of one event loop."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        super().__init__(address, options)
        # A channel belongs to the loop that runs when it is made: not yet.
        self._channel: Any = None

    async def _call(self, method: str, message: Any, limit_s: float | None) -> Any:
        if self._channel is None:
            self._channel = self._open_channel(grpc.aio)
        call = self._method(self._channel, method)
        try:
            return await call(message, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _client_error(error) from error

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()


def _client_error(error: Any) -> EnsembledClientError:
    """Return the error for a failed call; `error` is a finished call, too."""
    code, text = error.code(), error.details() or ""
    metadata = dict(error.trailing_metadata() or ())
    retry_after_s = parse_retry_after(metadata.get("retry-after"))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Without it, it is the message that was too large.
        return error_for_status(413 if retry_after_s is None else 429, text, retry_after_s)
    if code is not grpc.StatusCode.UNAVAILABLE or retry_after_s is not None:
        return error_for_status(_STATUSES.get(code, 500), text or code.name, retry_after_s)
    if _NEVER_SENT in text:
        return Unavailable(f"the server can't be reached ({text})", safe_to_retry=True)
    # The server's own answer, or a connection that broke: grpcio does not tell which.
    return Unavailable(text, _STATUSES[code])
