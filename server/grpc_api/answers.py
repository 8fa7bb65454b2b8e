"""Answers to infer requests as gRPC's messages, alone and in streams; always raw.

Runs in the front-end, on the hot path; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ensembled_client.wire.messages import message_class

from server.grpc_api.fields import length_prefixed
from server.inference.metadata import MODEL_VERSION
from server.inference.outputs import OutputTensor

__all__ = ["encode_answer", "encode_error", "encode_streamed"]

_Response = message_class("ModelInferResponse")
_StreamResponse = message_class("ModelStreamInferResponse")

_HEADS = 1024


def encode_answer(
    model: str, request_id: str, members: str, degraded: bool, outputs: Sequence[OutputTensor]
) -> bytes:
    """Serialize a ModelInferResponse.

    Args:
        model: its name.
        request_id: echoed.
        members: names of those that the answer rests on, separated by commas.
        degraded: whether these are fewer than were asked.
        outputs: as they were wanted.
    """
    described = tuple([(tensor.name, tensor.datatype, *tensor.shape) for tensor in outputs])
    pieces: list[bytes | bytearray | memoryview]
    pieces = [_answer_head(model, members, degraded, described)]
    if request_id:
        pieces += length_prefixed(_Response.ID_FIELD_NUMBER, request_id.encode())
    for tensor in outputs:
        pieces += length_prefixed(_Response.RAW_OUTPUT_CONTENTS_FIELD_NUMBER, tensor.data)
    return b"".join(pieces)


@lru_cache(_HEADS)
def _answer_head(
    model: str, members: str, degraded: bool, described: tuple[tuple[Any, ...], ...]
) -> bytes:
    """An answer without its id and its data; most answers to a model have the same."""
    head = _Response(model_name=model, model_version=MODEL_VERSION)
    head.parameters["members"].string_param = members
    head.parameters["degraded"].bool_param = degraded
    for name, datatype, *shape in described:
        head.outputs.add(name=name, datatype=datatype, shape=shape)
    serialized: bytes = head.SerializeToString(deterministic=True)
    return serialized


def encode_streamed(response: bytes) -> bytes:
    """Serialize a ModelStreamInferResponse around a serialized ModelInferResponse."""
    number = _StreamResponse.INFER_RESPONSE_FIELD_NUMBER
    return b"".join(length_prefixed(number, response))


def encode_error(text: str, request_id: str) -> bytes:
    """Serialize a ModelStreamInferResponse that says what is wrong with one request."""
    error = _StreamResponse(error_message=text)
    error.infer_response.id = request_id
    serialized: bytes = error.SerializeToString()
    return serialized
