"""The Open Inference Protocol over HTTP: an infer request's body to tensors, an answer to a body.

Runs in the front-end; pure. A body is JSON, or JSON followed by raw tensors (the binary tensor
extension); what its parts mean is in the protocol's specification (`inference_rest.md`) and the
extensions `binary_data` and `classification` of its best-known server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from ensembled_client.wire import DTYPES, HEADER_LENGTH, split_elements

from server.engine.request import Answer
from server.errors import InvalidRequest
from server.http_api.json_numbers import SLICE_BYTES, Extract, dump_in_steps, extract
from server.inference.generational_cache import GenerationalCache
from server.inference.metadata import MODEL_VERSION
from server.inference.outputs import COMBINED, OutputTensor, member_names, output_tensors
from server.inference.requests import (
    InferRequest,
    RequestedOutput,
    read_parameters,
    refuse_shared_memory,
)
from server.inference.spec import ModelSpec
from server.inference.tensors import (
    InputTensor,
    tensor_from_bytes,
    tensor_from_pieces,
    tensor_from_values,
)
from server.inference.time_slicer import Steps

__all__ = [
    "describe_answer",
    "encode_answer",
    "encode_in_steps",
    "parse_in_steps",
    "parse_request",
]

Raw = bytes | bytearray | memoryview

_HEADERS = 512  # of a generation
#: More JSON besides regular arrays of numbers is not read: it can't be taken in steps, and would
#: hold everybody up for longer than some tens of milliseconds.
_MAX_PLAIN_BYTES = 1 << 18


class _InputHeader(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = msgspec.UNSET


class _OutputHeader(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _RequestHeader(msgspec.Struct):
    inputs: list[_InputHeader]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_OutputHeader] | None = None


_decode_header = msgspec.json.Decoder(_RequestHeader).decode


def parse_request(body: bytes | bytearray, header_length: int | None) -> InferRequest:
    """Parse an infer request's body.

    Args:
        body: JSON, or JSON and raw tensors.
        header_length: the length of the JSON in bytes, None if the body is all JSON.

    Raises:
        InvalidRequest: in one line.
    """
    view, end = memoryview(body), _json_end(body, header_length)
    return _request(_read_header(view[:end]), view[end:])


def parse_in_steps(
    body: bytes | bytearray, header_length: int | None, *, slice_bytes: int = SLICE_BYTES
) -> Steps[InferRequest]:
    """Parse a big request's body as `parse_request` does, in steps of about a millisecond.

    What is big besides arrays of numbers is refused.

    Args:
        body: JSON, or JSON and raw tensors.
        header_length: the length of the JSON in bytes, None if the body is all JSON.
        slice_bytes: how much JSON is decoded in one step.

    Raises:
        InvalidRequest: in one line.
    """
    end = _json_end(body, header_length)
    least_bytes = slice_bytes // 64
    extracted = yield from extract(body, end, least_bytes=least_bytes, slice_bytes=slice_bytes)
    if extracted is None:
        return _parse_plain(body, header_length, end)
    _check_plain(len(extracted.document))
    header = _read_header(extracted.document, extracted)
    found = {
        index: pieces
        for index, item in enumerate(header.inputs)
        if (pieces := extracted.find(item.data)) is not None
    }
    if len({id(pieces) for pieces in found.values()}) != len(extracted.arrays):
        # Some are elsewhere, where only the ordinary parser would look.
        return _parse_plain(body, header_length, end)
    for index, pieces in found.items():
        item = header.inputs[index]
        try:
            item.data = yield from tensor_from_pieces(item.name, item.datatype, item.shape, pieces)
        except InvalidRequest as refusal:
            item.data = refusal  # told when it is its turn
    return _request(header, memoryview(body)[end:])


def _parse_plain(body: bytes | bytearray, header_length: int | None, end: int) -> InferRequest:
    """Parse what could not be taken in steps, unless that is too much."""
    _check_plain(end)
    return parse_request(body, header_length)


def _check_plain(nbytes: int) -> None:
    if nbytes > _MAX_PLAIN_BYTES:
        raise InvalidRequest(
            f"the JSON of the request has {nbytes} bytes besides regular arrays of numbers, at "
            f"most {_MAX_PLAIN_BYTES} are read: send what is no such array as binary data"
        )


def _json_end(body: bytes | bytearray, header_length: int | None) -> int:
    """Where the JSON of a body ends."""
    if header_length is None:
        return len(body)
    if not 0 <= header_length <= len(body):
        raise InvalidRequest(f"{HEADER_LENGTH} is {header_length}, the body has {len(body)} bytes")
    return header_length


def _read_header(text: bytes | memoryview, extracted: Extract | None = None) -> _RequestHeader:
    """Decode the JSON of a request, or what is left of it after its arrays were extracted."""
    try:
        return _decode_header(text)
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        complaint = extracted.original(str(error)) if extracted else str(error)
        raise InvalidRequest(f"the JSON of the request is not valid: {complaint}") from None


def _request(header: _RequestHeader, raw: memoryview) -> InferRequest:
    return InferRequest(
        id=header.id,
        tensors=_tensors(header.inputs, raw),
        outputs=_wanted_outputs(header),
        parameters=read_parameters(header.parameters),
    )


def _tensors(inputs: list[_InputHeader], raw: memoryview) -> list[InputTensor]:
    tensors: list[InputTensor] = []
    position = 0
    for item in inputs:
        refuse_shared_memory(f"input {item.name!r}", item.parameters)
        size = item.parameters.get("binary_data_size")
        if size is None:
            if item.data is msgspec.UNSET:
                raise InvalidRequest(f"input {item.name!r} has neither data nor binary_data_size")
            tensors.append(_json_tensor(item))
            continue
        if item.data is not msgspec.UNSET:
            raise InvalidRequest(f"input {item.name!r} has both data and binary_data_size")
        if type(size) is not int or size < 0:
            raise InvalidRequest(f"input {item.name!r}: binary_data_size is not a size: {size!r}")
        if position + size > len(raw):
            raise InvalidRequest(
                f"input {item.name!r}: binary_data_size is {size}, but only "
                f"{len(raw) - position} bytes are left in the body"
            )
        data = raw[position : position + size]
        tensors.append(tensor_from_bytes(item.name, item.datatype, item.shape, data))
        position += size
    if position != len(raw):
        raise InvalidRequest(f"{len(raw) - position} bytes of the body belong to no input")
    return tensors


def _json_tensor(item: _InputHeader) -> InputTensor:
    """The tensor of an input with data in JSON; `parse_in_steps` may have made it already."""
    if isinstance(item.data, InvalidRequest):
        raise item.data
    if isinstance(item.data, InputTensor):
        return item.data
    return tensor_from_values(item.name, item.datatype, item.shape, item.data)


def _wanted_outputs(header: _RequestHeader) -> tuple[RequestedOutput, ...]:
    binary = header.parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequest("parameter binary_data_output is true or false")
    if not header.outputs:
        return (RequestedOutput(COMBINED, binary),)
    return tuple([_wanted_output(output, binary) for output in header.outputs])


def _wanted_output(output: _OutputHeader, binary: bool) -> RequestedOutput:
    refuse_shared_memory(f"output {output.name!r}", output.parameters)
    binary = output.parameters.get("binary_data", binary)
    if not isinstance(binary, bool):
        raise InvalidRequest("parameter binary_data is true or false")
    classes = output.parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidRequest("parameter classification is how many classes to name")
    return RequestedOutput(output.name, binary, classes)


#: What most clients want; the headers of such answers, by all that they depend on.
_USUAL = (RequestedOutput(COMBINED, binary=True),)
_headers: GenerationalCache[tuple[str, int, int, bool], bytes] = GenerationalCache(_HEADERS)


def encode_answer(
    model: ModelSpec, answer: Answer, request_id: str, outputs: tuple[RequestedOutput, ...]
) -> tuple[bytes, int | None]:
    """Encode an answer: the body, and the length of its JSON if raw tensors follow.

    Args:
        model: what was asked.
        answer: what it says.
        request_id: echoed, unless it is empty.
        outputs: what is wanted of it.
    """
    if outputs != _USUAL or request_id:
        return _encode(model, answer, request_id, outputs)
    # Most answers to a model are alike but for their values.
    key = (model.served.name, answer.rows, answer.used, answer.degraded)
    header = _headers.get(key)
    if header is None:
        body, length = _encode(model, answer, request_id, outputs)
        _headers.put(key, body[:length])
        return body, length
    return header + answer.values, len(header)


def encode_in_steps(
    document: dict[str, Any], raw: Sequence[Raw]
) -> Steps[tuple[bytes, int | None]]:
    """Encode an answer that `describe_answer` has described as `encode_answer` does, in steps."""
    return _joined((yield from dump_in_steps(document)), raw)


def _encode(
    model: ModelSpec, answer: Answer, request_id: str, outputs: tuple[RequestedOutput, ...]
) -> tuple[bytes, int | None]:
    document, raw = describe_answer(model, answer, request_id, outputs)
    return _joined(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), raw)


def _joined(header: bytes, raw: Sequence[Raw]) -> tuple[bytes, int | None]:
    return (b"".join([header, *raw]), len(header)) if raw else (header, None)


def describe_answer(
    model: ModelSpec, answer: Answer, request_id: str, outputs: tuple[RequestedOutput, ...]
) -> tuple[dict[str, Any], list[Raw]]:
    """The JSON document of an answer, with NumPy arrays, and the raw tensors that follow it.

    Args:
        model: what was asked.
        answer: what it says.
        request_id: echoed, unless it is empty.
        outputs: what is wanted of it.
    """
    described: list[dict[str, Any]] = []
    raw: list[Raw] = []
    for wanted, tensor in zip(outputs, output_tensors(model, answer, outputs), strict=True):
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if wanted.binary:
            output["parameters"] = {"binary_data_size": len(tensor.data)}
            raw.append(tensor.data)
        else:
            output["data"] = _values(tensor)
        described.append(output)
    document: dict[str, Any] = {"model_name": model.served.name, "model_version": MODEL_VERSION}
    if request_id:
        document["id"] = request_id
    members = ",".join(member_names(model, answer.used))
    document["parameters"] = {"members": members, "degraded": answer.degraded}
    document["outputs"] = described
    return document, raw


def _values(tensor: OutputTensor) -> Any:
    """The elements of a tensor, flat, as JSON takes them; what is no number becomes null."""
    if tensor.datatype == "BYTES":
        return [bytes(element).decode() for element in split_elements(tensor.data)]
    return np.frombuffer(tensor.data, DTYPES[tensor.datatype])
