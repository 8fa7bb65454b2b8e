"""The Open Inference Protocol over gRPC: messages to be sent, and what answers mean. Pure.

In: requests and topics of a session. Out: messages for a transport, and its replies decoded.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from ensembled_client.errors import ServerFailure
from ensembled_client.exchange import InferRequest, Subject, Topic
from ensembled_client.wire import InferResponse, WireError
from ensembled_client.wire.messages import decode_response_message, message_class, request_message

__all__ = ["answer_of", "document_of", "infer_message", "overhead_bytes", "question"]

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


def infer_message(request: InferRequest) -> Any:
    """Return the message that has a model predict."""
    return _message(request, with_data=True)


def overhead_bytes(request: InferRequest) -> int:
    """Return how much of a request's message is not raw tensors, at most."""
    size: int = _message(request, with_data=False).ByteSize()
    return size + _FRAMING_BYTES * (1 + len(request.tensors))


def _message(request: InferRequest, *, with_data: bool) -> Any:
    return request_message(
        request.model,
        request.tensors,
        outputs=request.requested_outputs,
        parameters=dict(request.parameters),
        with_data=with_data,
    )


def question(topic: Topic) -> tuple[str, Any]:
    """Return the method that asks about something, and the message for it."""
    method = _METHODS[topic.subject]
    about = {"name": topic.model} if topic.model else {}
    return method, message_class(f"{method}Request")(**about)


def answer_of(message: Any) -> InferResponse:
    """Decode a ModelInferResponse.

    Raises:
        ServerFailure: if it is not what the protocol says.
    """
    try:
        return decode_response_message(message)
    except WireError as error:
        raise ServerFailure(f"the server's answer can't be understood: {error}") from error


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
