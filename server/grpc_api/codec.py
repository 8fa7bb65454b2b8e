"""Infer requests decoded from gRPC's messages, and responses encoded to them.

Runs in the front-end, on the hot path; pure. Bytes flow in, what every protocol understands flows
out to `Inference`, and back. Raw tensors are only sliced, which takes microseconds; typed ones (in
`contents`) are converted element by element, in a thread if there are many. Responses are raw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from ensembled_client.wire import DTYPES, join_elements
from ensembled_client.wire.messages import message_class, parameter_values
from google.protobuf.message import DecodeError

from server.errors import InvalidRequest
from server.grpc_api.wire_format import Fields, check_part_count, length_prefixed, split_fields
from server.inference.outputs import OutputTensor
from server.inference.parameters import INPUT, OUTPUT, REQUEST, ParameterSet
from server.inference.requests import (
    InferRequest,
    RequestedOutput,
    RequestParameters,
    read_output,
    read_parameters,
    refuse_shared_memory,
    share_parameters,
)
from server.inference.tensors import InputTensor, tensor_from_bytes
from server.versions import ModelName

__all__ = [
    "DecodedRequest",
    "build_request",
    "decode_fields",
    "decode_request",
    "encode_error",
    "encode_response",
    "encode_streamed",
    "parse",
]

_Request = message_class("ModelInferRequest")
_Response = message_class("ModelInferResponse")
_StreamResponse = message_class("ModelStreamInferResponse")

#: Heads in a cache. Longer ones hold typed tensors, which hardly repeat.
_CACHED_HEADS = 1024
_MAX_CACHED_HEAD_BYTES = 4096
#: Heads of some milliseconds' work are decoded in a thread.
_LARGE_HEAD_BYTES = 1 << 18
#: The parser holds the interpreter lock, in a thread, too: at worst a tenth of a second for this.
_MAX_HEAD_BYTES = 1 << 23
#: The field of InferTensorContents for each datatype, and the datatype of its elements; other
#: datatypes are only sent raw.
_CONTENTS = {
    "BOOL": ("bool_contents", "BOOL"),
    **dict.fromkeys(("INT8", "INT16", "INT32"), ("int_contents", "INT32")),
    "INT64": ("int64_contents", "INT64"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), ("uint_contents", "UINT32")),
    "UINT64": ("uint64_contents", "UINT64"),
    "FP32": ("fp32_contents", "FP32"),
    "FP64": ("fp64_contents", "FP64"),
    "BYTES": ("bytes_contents", "BYTES"),
}


class _Input(NamedTuple):
    """An input without its raw data; `contents` is None unless it is typed."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    contents: Any


class MessageHead(NamedTuple):
    """A request but for its id and its raw tensors; the version may be empty.

    `complaint` is that of `InferRequest`.
    """

    model: str
    version: str
    parameters: RequestParameters
    outputs: tuple[RequestedOutput, ...]
    inputs: tuple[_Input, ...]
    complaint: str


class DecodedRequest(NamedTuple):
    """A request whose tensors are not decoded yet.

    `head_bytes` is how much of the message is not raw tensors. The id may be empty.
    """

    head: MessageHead
    id: str
    raw: Sequence[bytes | memoryview]
    head_bytes: int

    def build(self) -> InferRequest:
        """Decode the tensors; raises `InvalidRequest` if they don't fit datatypes and shapes."""
        head = self.head
        tensors = _raw(head.inputs, self.raw) if self.raw else [_typed(i) for i in head.inputs]
        return InferRequest(self.id, tensors, head.outputs, head.parameters, head.complaint)


def parse(message: type[Any], data: bytes) -> Any:
    """Parse a message of a class; raises `InvalidRequest` if it is malformed."""
    try:
        return message.FromString(data)
    except DecodeError:
        name = message.DESCRIPTOR.name
        raise InvalidRequest(f"the message is no {name}") from None


async def decode_request(message: bytes) -> DecodedRequest:
    """Decode a serialized ModelInferRequest, but for its tensors; may raise `InvalidRequest`."""
    fields = split_fields(message)
    if len(fields.head) < _LARGE_HEAD_BYTES:
        return decode_fields(fields)
    if len(fields.head) > _MAX_HEAD_BYTES:
        raise InvalidRequest(
            f"the request has {len(fields.head)} bytes besides raw_input_contents, at most "
            f"{_MAX_HEAD_BYTES} are read: send big tensors there"
        )
    return await asyncio.to_thread(_decode_large, fields)


def _decode_large(fields: Fields) -> DecodedRequest:
    check_part_count(fields.head)
    return decode_fields(fields)


async def build_request(decoded: DecodedRequest) -> InferRequest:
    """Decode the tensors, in a thread if many are in `contents`; raises as `build` does."""
    if decoded.head_bytes < _LARGE_HEAD_BYTES:
        return decoded.build()
    return await asyncio.to_thread(decoded.build)


def decode_fields(fields: Fields) -> DecodedRequest:
    """Decode the fields of a ModelInferRequest, but for its tensors; may raise `InvalidRequest`."""
    head_bytes = len(fields.head)
    if fields.id is None:  # malformed, or with unknown fields
        message = parse(_Request, fields.head)
        raw = list(message.raw_input_contents)
        return DecodedRequest(_head(message), message.id, raw, head_bytes)
    try:
        request_id = fields.id.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the request's id is not UTF-8") from None
    if head_bytes <= _MAX_CACHED_HEAD_BYTES:
        head = _cached_head(fields.head)
    else:
        head = _head(parse(_Request, fields.head))
    return DecodedRequest(head, request_id, fields.raw, head_bytes)


@lru_cache(_CACHED_HEADS)
def _cached_head(head: bytes) -> MessageHead:
    return _head(parse(_Request, head))


def _head(message: Any) -> MessageHead:
    parameters = parameter_values(message.parameters)
    outputs = tuple([_output(output) for output in message.outputs])
    outputs = outputs or (RequestedOutput(is_default=True),)
    return MessageHead(
        message.model_name,
        message.model_version,
        read_parameters(parameters),
        share_parameters(outputs, parameters),
        tuple([_input(item) for item in message.inputs]),
        _complaint(message),
    )


def _complaint(message: Any) -> str:
    return (
        REQUEST.complain("", message.parameters)
        or _complaint_of(INPUT, "input", message.inputs)
        or _complaint_of(OUTPUT, "output", message.outputs)
    )


def _complaint_of(known: ParameterSet, kind: str, tensors: Iterable[Any]) -> str:
    complaints = (known.complain(f"{kind} {one.name!r}", one.parameters) for one in tensors)
    return next(filter(None, complaints), "")


def _output(output: Any) -> RequestedOutput:
    return read_output(output.name, parameter_values(output.parameters), binary=True)


def _input(item: Any) -> _Input:
    refuse_shared_memory(f"input {item.name!r}", item.parameters)
    contents = item.contents if item.HasField("contents") else None
    return _Input(item.name, item.datatype, tuple(item.shape), contents)


def _raw(inputs: Sequence[_Input], raw: Sequence[bytes | memoryview]) -> list[InputTensor]:
    if len(raw) != len(inputs):
        raise InvalidRequest(
            f"the request has {len(inputs)} inputs, but raw_input_contents for {len(raw)}"
        )
    tensors = []
    for (name, datatype, shape, contents), data in zip(inputs, raw, strict=True):
        if contents is not None and contents.ListFields():
            raise InvalidRequest(f"input {name!r} has contents, and raw_input_contents as well")
        tensors.append(tensor_from_bytes(name, datatype, shape, data))
    return tensors


def _typed(item: _Input) -> InputTensor:
    name, datatype, shape, contents = item
    if datatype not in _CONTENTS:
        what = "is only taken in raw_input_contents" if datatype in DTYPES else "is not supported"
        raise InvalidRequest(f"input {name!r}: datatype {datatype!r} {what}")
    field, elements = _CONTENTS[datatype]
    filled = [] if contents is None else [one.name for one, _ in contents.ListFields()]
    if other := next((other for other in filled if other != field), None):
        raise InvalidRequest(f"input {name!r}: {datatype} goes into {field}, not into {other}")
    values = getattr(contents, field) if filled else []
    if datatype == "BYTES":
        return tensor_from_bytes(name, datatype, shape, join_elements(values))
    array = np.fromiter(values, DTYPES[elements], len(values))
    converted = array.astype(DTYPES[datatype], copy=False)
    if converted.dtype != array.dtype and (converted != array).any():
        raise InvalidRequest(f"input {name!r}: a value is out of the range of {datatype}")
    return tensor_from_bytes(name, datatype, shape, converted.tobytes())


def encode_response(
    model: ModelName,
    request_id: str,
    members: str,
    degraded: bool,
    outputs: Sequence[OutputTensor],
    *,
    generation: int,
    variants: str = "",
) -> bytes:
    """Serialize a ModelInferResponse; the outputs are in the requested order.

    `members` are the names of those that the answer rests on, separated by commas; it is `degraded`
    if these are fewer than requested. The model is that of the deployment `generation`, whose
    members run as `variants`.
    """
    tensors = tuple([(tensor.name, tensor.datatype, *tensor.shape) for tensor in outputs])
    pieces: list[bytes | bytearray | memoryview]
    pieces = [_response_head(model, (members, degraded, generation, variants), tensors)]
    if request_id:
        pieces += length_prefixed(_Response.ID_FIELD_NUMBER, request_id.encode())
    for tensor in outputs:
        pieces += length_prefixed(_Response.RAW_OUTPUT_CONTENTS_FIELD_NUMBER, tensor.data)
    return b"".join(pieces)


@lru_cache(_CACHED_HEADS)
def _response_head(
    model: ModelName,
    parameters: tuple[str, bool, int, str],
    tensors: tuple[tuple[Any, ...], ...],
) -> bytes:
    """A response without id and data; most responses of a model have the same."""
    members, degraded, generation, variants = parameters
    head = _Response(model_name=model.name, model_version=model.version)
    head.parameters["members"].string_param = members
    head.parameters["degraded"].bool_param = degraded
    head.parameters["generation"].int64_param = generation
    if variants:
        head.parameters["variants"].string_param = variants
    for name, datatype, *shape in tensors:
        head.outputs.add(name=name, datatype=datatype, shape=shape)
    serialized: bytes = head.SerializeToString(deterministic=True)
    return serialized


def encode_streamed(response: bytes) -> bytes:
    """Serialize a ModelStreamInferResponse around a serialized ModelInferResponse."""
    number = _StreamResponse.INFER_RESPONSE_FIELD_NUMBER
    return b"".join(length_prefixed(number, response))


def encode_error(text: str, request_id: str) -> bytes:
    """Serialize a ModelStreamInferResponse with the error of one request."""
    error = _StreamResponse(error_message=text)
    error.infer_response.id = request_id
    serialized: bytes = error.SerializeToString()
    return serialized
