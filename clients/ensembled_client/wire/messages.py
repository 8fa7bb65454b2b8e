"""The protocol's gRPC messages: their classes, and infer requests and responses as messages.

Pure, but needs protobuf. The classes of ``open_inference.proto`` are in a descriptor pool of their
own: other packages (tritonclient, kserve) register the same names in protobuf's default pool, where
that can be done only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ensembled_client.wire.bodies import InferResponse
from ensembled_client.wire.tensors import RawTensor, WireError, decode_array

__all__ = [
    "DESCRIPTORS",
    "METHODS",
    "SERVICE",
    "decode_response_message",
    "message_class",
    "parameter_values",
    "request_message",
]

#: What ``make proto`` compiles ``open_inference.proto`` to: a FileDescriptorSet.
DESCRIPTORS: Final = Path(__file__).with_name("open_inference.binpb")
_PACKAGE: Final = "inference"
SERVICE: Final = f"{_PACKAGE}.GRPCInferenceService"


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool = _load()
#: Names of the service's methods.
METHODS: Final = frozenset(_pool.FindServiceByName(SERVICE).methods_by_name)


def message_class(name: str) -> Any:
    """Return a message's class by its .proto name, e.g. "ModelInferRequest"; KeyError if none."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


_InferRequest = message_class("ModelInferRequest")


def request_message(
    model: str,
    tensors: Iterable[RawTensor],
    *,
    outputs: Mapping[str, int] | None = None,
    parameters: Mapping[str, str | int | float | bool] | None = None,
    version: str = "",
    with_data: bool = True,
) -> Any:
    """Return a ModelInferRequest with raw tensors; for `outputs` see `request_header`.

    Without a version the server chooses it. Without data, `raw_input_contents` are left out.
    """
    message = _InferRequest(model_name=model, model_version=version)
    for tensor in tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if with_data:
            message.raw_input_contents.append(bytes(tensor.data))
    for name, classes in (outputs or {}).items():
        output = message.outputs.add(name=name)
        if classes:
            output.parameters["classification"].int64_param = classes
    for name, value in (parameters or {}).items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        elif isinstance(value, int):
            message.parameters[name].int64_param = value
        elif isinstance(value, float):
            message.parameters[name].double_param = value
        else:
            message.parameters[name].string_param = value
    return message


def decode_response_message(message: Any) -> InferResponse:
    """Decode a ModelInferResponse with raw tensors; WireError if it breaks the protocol."""
    if len(message.outputs) != len(message.raw_output_contents):
        raise WireError(
            f"{len(message.outputs)} outputs, but {len(message.raw_output_contents)} raw contents"
        )
    outputs = {
        tensor.name: decode_array(tensor.datatype, tensor.shape, raw)
        for tensor, raw in zip(message.outputs, message.raw_output_contents, strict=True)
    }
    return InferResponse(outputs, parameter_values(message.parameters))


def parameter_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a message's parameters; one without a value is left out."""
    values = {}
    for name, parameter in parameters.items():
        if choice := parameter.WhichOneof("parameter_choice"):
            values[name] = getattr(parameter, choice)
    return values
