"""A plain gRPC client for process tests: messages of the server's own .proto, errors as raised.

The fixture `connect` opens channels that are closed before the servers of a test are stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from ensembled_client.wire.messages import SERVICE, message_class

_DTYPES = {"FP32": np.float32, "FP64": np.float64, "BOOL": np.bool_}


class Channel:
    """A connection of its own.

    Args:
        address: HOST:PORT.
        credentials: for TLS.
        key: an API key.
    """

    def __init__(self, address: str, credentials: Any = None, key: str = "") -> None:
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        options = {
            "grpc.max_send_message_length": -1,
            "grpc.max_receive_message_length": -1,
            "grpc.use_local_subchannel_pool": 1,
            "grpc.initial_reconnect_backoff_ms": 50,
            "grpc.max_reconnect_backoff_ms": 200,
        }
        listed = list(options.items())
        if credentials is None:
            self.raw = grpc.insecure_channel(address, options=listed)
        else:
            self.raw = grpc.secure_channel(address, credentials, options=listed)

    def method(self, name: str) -> Any:
        """A unary method of the service."""
        return self.raw.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_class(f"{name}Response").FromString,
        )

    def call(self, method: str, /, **fields: Any) -> Any:
        """Call a method with these fields of its request."""
        request = message_class(f"{method}Request")(**fields)
        return self.method(method)(request, timeout=60, metadata=self._metadata)

    def bytes_call(self, name: str, data: bytes, **options: Any) -> bytes:
        """Call a method with whatever bytes."""
        return self.raw.unary_unary(f"/{SERVICE}/{name}")(data, timeout=60, **options)

    def infer(
        self,
        model: str,
        x: Any,
        *,
        within_s: float | None = 60,
        metadata: tuple[tuple[str, str], ...] = (),
        **options: Any,
    ) -> InferAnswer:
        """Ask a model about rows of one FP32 tensor; `within_s` is the call's deadline."""
        request = infer_request(model, x, **options)
        method = self.method("ModelInfer")
        metadata += self._metadata
        return InferAnswer(method(request, timeout=within_s, metadata=metadata))

    def stream(self, requests: Iterable[Any]) -> Any:
        """Open a stream of these requests: an iterator of answers, which is a call, too."""
        return self.raw.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_class("ModelStreamInferResponse").FromString,
        )(iter(requests), timeout=60, metadata=self._metadata)

    def is_ready(self) -> bool:
        try:
            return self.call("ServerReady").ready
        except grpc.RpcError:
            return False


class InferAnswer:
    """A ModelInferResponse."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.id = message.id
        self.members = message.parameters["members"].string_param.split(",")
        self.degraded = message.parameters["degraded"].bool_param

    @property
    def values(self) -> np.ndarray:
        """The only output."""
        (name,) = [output.name for output in self.message.outputs]
        return self.output(name)

    def output(self, name: str) -> np.ndarray:
        index = [output.name for output in self.message.outputs].index(name)
        described = self.message.outputs[index]
        dtype = _DTYPES[described.datatype]
        raw = self.message.raw_output_contents[index]
        return np.frombuffer(raw, dtype).reshape(described.shape)


def infer_request(
    model: str,
    x: Any,
    *,
    typed: bool = False,
    request_id: str = "",
    outputs: Iterable[str] = (),
    **parameters: Any,
) -> Any:
    """A ModelInferRequest of one FP32 input ``x``."""
    x = np.ascontiguousarray(x, np.float32)
    request = message_class("ModelInferRequest")(model_name=model, id=request_id)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    if typed:
        tensor.contents.fp32_contents.extend(x.ravel().tolist())
    else:
        request.raw_input_contents.append(x.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


@contextmanager
def connected(address: str, **options: Any) -> Iterator[Channel]:
    """A channel, closed in the end."""
    channel = Channel(address, **options)
    try:
        yield channel
    finally:
        channel.raw.close()


@pytest.fixture
def connect() -> Iterator[Callable[[Any], Channel]]:
    """Channels that are closed at the end of the test, before the servers are stopped."""
    with ExitStack() as opened:
        yield lambda server: opened.enter_context(connected(server.grpc))


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as info:
        call(*arguments, **options)
    return info.value


def status(error: Any) -> str:
    """The name of its code."""
    return error.code().name


def is_full(channel: Channel) -> Any:
    """The error that says so, or None."""
    try:
        channel.infer("slow", [[1, 2]], timeout=1)
    except grpc.RpcError as error:
        return error if status(error) == "RESOURCE_EXHAUSTED" else None
