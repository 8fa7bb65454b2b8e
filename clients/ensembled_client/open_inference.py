"""The Open Inference Protocol over gRPC: messages to be sent, and what answers mean. Pure.

In: requests and topics of a session. Out: messages for a transport, and its replies decoded. The
message classes live in a descriptor pool of their own: other packages (tritonclient, kserve)
register the same names in protobuf's default pool, where that can be done only once.
"""

from __future__ import annotations

import struct
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from ensembled_client.datatypes import Array, decode
from ensembled_client.errors import ServerFailure
from ensembled_client.exchange import OUTPUT, Answer, InferRequest, Subject, Topic

__all__ = [
    "SERVICE",
    "answer_of",
    "document_of",
    "message_class",
    "overhead_bytes",
    "question",
    "request_message",
]

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

#: What a request's tensors and raw contents need beside their bytes: lengths and tags.
_FRAMING_BYTES = 16

_METHODS = {
    Subject.SERVER: "ServerMetadata",
    Subject.LIVE: "ServerLive",
    Subject.READY: "ServerReady",
    Subject.INDEX: "RepositoryIndex",
    Subject.STATISTICS: "ModelStatistics",
    Subject.METADATA: "ModelMetadata",
    Subject.CONFIG: "ModelConfig",
    Subject.MODEL_READY: "ModelReady",
}
#: The part of a reply that is the document over HTTP.
_PARTS = {
    Subject.LIVE: "live",
    Subject.READY: "ready",
    Subject.MODEL_READY: "ready",
    Subject.INDEX: "models",
    Subject.CONFIG: "config",
}


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    raw = files("ensembled_client").joinpath("open_inference.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool = _load()


def message_class(name: str) -> Any:
    """Return the class of a message, e.g. "ModelInferRequest".

    Raises:
        KeyError: if there is none.
    """
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


_InferRequest = message_class("ModelInferRequest")


def request_message(request: InferRequest) -> Any:
    """Return the message that has a model predict."""
    message = _without_contents(request)
    message.raw_input_contents.extend(bytes(tensor.data) for tensor in request.tensors)
    return message


def overhead_bytes(request: InferRequest) -> int:
    """Return how much of a request's message is not raw tensors, at most."""
    size: int = _without_contents(request).ByteSize()
    return size + _FRAMING_BYTES * (1 + len(request.tensors))


def _without_contents(request: InferRequest) -> Any:
    message = _InferRequest(model_name=request.model)
    for tensor in request.tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    for name in request.outputs:
        output = message.outputs.add(name=name)
        if request.classes and name == OUTPUT:
            output.parameters["classification"].int64_param = request.classes
    for name, value in request.parameters:
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        elif isinstance(value, int):
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].string_param = value
    return message


def question(topic: Topic) -> tuple[str, Any]:
    """Return the method that asks about something, and the message for it."""
    method = _METHODS[topic.subject]
    about = {"name": topic.model} if topic.model else {}
    return method, message_class(f"{method}Request")(**about)


def answer_of(message: Any) -> Answer:
    """Decode a ModelInferResponse.

    Raises:
        ServerFailure: if it is not what the protocol says.
    """
    try:
        outputs: dict[str, Array] = {
            described.name: decode(described.datatype, described.shape, raw)
            for described, raw in zip(message.outputs, message.raw_output_contents, strict=True)
        }
    except (KeyError, ValueError, struct.error) as error:
        raise ServerFailure(f"the server's answer can't be understood: {error!r}") from error
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
        for name, value in message.parameters.items()
    }
    return Answer(outputs, parameters)


def document_of(topic: Topic, message: Any) -> Any:
    """Return a reply to a question as HTTP has it: dictionaries, lists, numbers, texts."""
    document = _plain(message)
    part = _PARTS.get(topic.subject)
    return document if part is None else document[part]


def _plain(value: Any) -> Any:
    """Any message as a dictionary of all its fields, those that are 0 or empty included."""
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
