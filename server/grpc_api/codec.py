"""Infer requests, from gRPC's messages to what every protocol understands.

Runs in the front-end, on the hot path; pure. Tensors come raw, or typed in `contents`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from ensembled_client.wire import DTYPES, join_elements
from ensembled_client.wire.messages import message_class, parameter_values
from google.protobuf.message import DecodeError

from server.errors import InvalidRequest
from server.grpc_api.fields import Fields
from server.inference.requests import (
    InferRequest,
    RequestedOutput,
    RequestParameters,
    read_parameters,
    refuse_shared_memory,
)
from server.inference.tensors import InputTensor, tensor_from_bytes

__all__ = ["Asked", "parse", "parse_request"]

_Request = message_class("ModelInferRequest")

_HEADS = 1024
#: Heads beyond this are typed tensors, which hardly come twice.
_HEAD_BYTES = 4096
#: The field of InferTensorContents that each datatype goes into; the others are only sent raw.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_ELEMENTS = {
    "bool_contents": np.dtype(np.bool_),
    "int_contents": np.dtype(np.int32),
    "int64_contents": np.dtype(np.int64),
    "uint_contents": np.dtype(np.uint32),
    "uint64_contents": np.dtype(np.uint64),
    "fp32_contents": np.dtype(np.float32),
    "fp64_contents": np.dtype(np.float64),
}


class _Input(NamedTuple):
    """An input without its data; `contents` has that if it is typed."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    contents: Any


class Head(NamedTuple):
    """All that a request says but for its id and its raw tensors.

    Attributes:
        model: the name that it asks for.
        version: of the model, may be empty.
    """

    model: str
    version: str
    parameters: RequestParameters
    outputs: tuple[RequestedOutput, ...]
    inputs: tuple[_Input, ...]


class Asked(NamedTuple):
    """A request as it came, whose tensors are not yet looked at.

    Attributes:
        id: to be echoed, may be empty.
        raw: the raw tensors.
        head_bytes: how much of the message is not raw tensors.
    """

    head: Head
    id: str
    raw: Sequence[bytes | memoryview]
    head_bytes: int

    def request(self) -> InferRequest:
        """Make its tensors, and all the rest that every protocol understands.

        Raises:
            InvalidRequest: if data, datatypes and shapes don't fit together.
        """
        head = self.head
        tensors = _raw(head.inputs, self.raw) if self.raw else [_typed(i) for i in head.inputs]
        return InferRequest(self.id, tensors, head.outputs, head.parameters)


def parse(message: type[Any], data: bytes) -> Any:
    """Parse a message.

    Raises:
        InvalidRequest: if it is malformed.
    """
    try:
        return message.FromString(data)
    except DecodeError:
        name = message.DESCRIPTOR.name
        raise InvalidRequest(f"the message is no {name}") from None


def parse_request(fields: Fields) -> Asked:
    """Read a ModelInferRequest, but for its tensors.

    Args:
        fields: what `take_apart` made of it.

    Raises:
        InvalidRequest: if it is malformed, or asks for what has no meaning.
    """
    head_bytes = len(fields.head)
    if fields.id is None:  # malformed, or with fields that are not ours
        message = parse(_Request, fields.head)
        raw = list(message.raw_input_contents)
        return Asked(_read_head(message), message.id, raw, head_bytes)
    try:
        request_id = fields.id.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the request's id is not UTF-8") from None
    if head_bytes <= _HEAD_BYTES:
        head = _known_head(fields.head)
    else:
        head = _read_head(parse(_Request, fields.head))
    return Asked(head, request_id, fields.raw, head_bytes)


@lru_cache(_HEADS)
def _known_head(head: bytes) -> Head:
    return _read_head(parse(_Request, head))


def _read_head(message: Any) -> Head:
    return Head(
        message.model_name,
        message.model_version,
        read_parameters(parameter_values(message.parameters)),
        tuple([_wanted(output) for output in message.outputs]) or (RequestedOutput(),),
        tuple([_input(item) for item in message.inputs]),
    )


def _wanted(output: Any) -> RequestedOutput:
    parameters = parameter_values(output.parameters)
    refuse_shared_memory(f"output {output.name!r}", parameters)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidRequest("parameter classification is how many classes to name")
    return RequestedOutput(output.name, binary=True, classes=classes)


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
    field = _CONTENTS.get(datatype)
    if field is None:
        what = "is only taken in raw_input_contents" if datatype in DTYPES else "is not supported"
        raise InvalidRequest(f"input {name!r}: datatype {datatype!r} {what}")
    given = [] if contents is None else [given.name for given, _ in contents.ListFields()]
    if other := next((other for other in given if other != field), None):
        raise InvalidRequest(f"input {name!r}: {datatype} goes into {field}, not into {other}")
    values = getattr(contents, field) if given else []
    if datatype == "BYTES":
        return tensor_from_bytes(name, datatype, shape, join_elements(values))
    array = np.fromiter(values, _ELEMENTS[field], len(values))
    converted = array.astype(DTYPES[datatype], copy=False)
    if converted.dtype != array.dtype and (converted != array).any():
        raise InvalidRequest(f"input {name!r}: a value is out of the range of {datatype}")
    return tensor_from_bytes(name, datatype, shape, converted.tobytes())
