"""The Open Inference Protocol over HTTP: an infer request's body to tensors, an answer to a body.

Runs in the front-end; pure. A body is JSON, or JSON followed by raw tensors (the binary tensor
extension). The protocol's specification is `inference_rest.md`, with Triton's extensions
`binary_data` and `classification`.
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
from server.http_api.json_tensors import SLICE_BYTES, encode_array, tensor_from_json
from server.inference.outputs import OutputTensor, member_names, output_tensors
from server.inference.parameters import INPUT, OUTPUT, REQUEST
from server.inference.requests import (
    InferRequest,
    RequestedOutput,
    read_output,
    read_parameters,
    refuse_shared_memory,
    share_parameters,
)
from server.inference.spec import ModelSpec
from server.inference.tensors import InputTensor, tensor_from_bytes
from server.inference.time_slicer import Slices, run_to_end

__all__ = [
    "describe_answer",
    "encode_answer",
    "encode_in_slices",
    "parse_in_slices",
    "parse_request",
]

Raw = bytes | bytearray | memoryview

#: More JSON than this besides arrays of numbers is refused: it is decoded in one go, which would
#: block the event loop for more than some tens of milliseconds.
_MAX_PLAIN_BYTES = 1 << 18

#: A field that is absent, or null.
_NOTHING = msgspec.Raw(b"")
_NULL = b"null"


class _InputHeader(msgspec.Struct):
    name: str
    shape: msgspec.Raw  # decoded once it is known not to be long
    datatype: str
    parameters: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING


class _OutputHeader(msgspec.Struct):
    name: str
    parameters: msgspec.Raw = _NOTHING


class _RequestHeader(msgspec.Struct):
    inputs: list[_InputHeader]
    id: str | None = None
    parameters: msgspec.Raw = _NOTHING
    outputs: list[_OutputHeader] | None = None


_decode_header = msgspec.json.Decoder(_RequestHeader).decode
_decode_shape = msgspec.json.Decoder(list[int]).decode
_decode_parameters = msgspec.json.Decoder(dict[str, Any] | None).decode


def parse_request(body: bytes | bytearray, header_length: int | None) -> InferRequest:
    """Parse an infer request's body without a pause, as `parse_in_slices` does."""
    return run_to_end(parse_in_slices(body, header_length))


def parse_in_slices(
    body: bytes | bytearray, header_length: int | None, *, slice_bytes: int = SLICE_BYTES
) -> Slices[InferRequest]:
    """Parse an infer request's body; a generator that yields between slices of large tensors.

    One pass over the JSON finds where tensors are, at more than a gigabyte per second; only their
    decoding is sliced. `header_length` is None if the body is all JSON. Raises `InvalidRequest`, in
    one line.
    """
    view, end = memoryview(body), _json_end(body, header_length)
    if end > _MAX_PLAIN_BYTES:
        # Before anything is decoded: arrays of numbers have no quotes, colons and braces.
        _check_plain_bytes(sum(body.count(character, 0, end) for character in b'":{}'))
    try:
        header = _decode_header(view[:end])
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid_json(error) from None
    if end > _MAX_PLAIN_BYTES:
        numbers = [item.data for item in header.inputs if item.datatype != "BYTES"]
        _check_plain_bytes(end - sum(memoryview(data).nbytes for data in numbers))
    parameters = _parameters(header.parameters)
    complaints = [REQUEST.complain("", parameters)]
    tensors = yield from _tensors(header.inputs, view[end:], slice_bytes, complaints)
    return InferRequest(
        id=header.id or "",
        tensors=tensors,
        outputs=_wanted_outputs(header.outputs, parameters, complaints),
        parameters=read_parameters(parameters),
        complaint=next(filter(None, complaints), ""),
    )


def _check_plain_bytes(nbytes: int) -> None:
    """Refuse much JSON outside arrays of numbers: unsliced, it could take seconds to decode."""
    if nbytes > _MAX_PLAIN_BYTES:
        raise InvalidRequest(
            f"the JSON of the request has {nbytes} bytes or more besides arrays of numbers, at "
            f"most {_MAX_PLAIN_BYTES} are accepted: send BYTES tensors as binary data"
        )


def _json_end(body: bytes | bytearray, header_length: int | None) -> int:
    """Where the JSON of a body ends."""
    if header_length is None:
        return len(body)
    if not 0 <= header_length <= len(body):
        raise InvalidRequest(f"{HEADER_LENGTH} is {header_length}, the body has {len(body)} bytes")
    return header_length


def _invalid_json(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"the JSON of the request is not valid: {error}")


def _shape(item: _InputHeader) -> list[int]:
    try:
        return _decode_shape(item.shape)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"input {item.name!r}: its shape is not valid: {error}") from None


def _parameters(text: msgspec.Raw) -> dict[str, Any]:
    """The parameters that have a value: null is absence."""
    if text is _NOTHING:
        return {}
    try:
        given = _decode_parameters(text) or {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid_json(error) from None
    if None in given.values():
        return {name: value for name, value in given.items() if value is not None}
    return given


def _tensors(
    inputs: list[_InputHeader], raw: memoryview, slice_bytes: int, complaints: list[str]
) -> Slices[list[InputTensor]]:
    tensors: list[InputTensor] = []
    position = 0
    for item in inputs:
        parameters, shape = _parameters(item.parameters), _shape(item)
        refuse_shared_memory(f"input {item.name!r}", parameters)
        complaints.append(INPUT.complain(f"input {item.name!r}", parameters))
        size, has_data = parameters.get("binary_data_size"), _has_data(item)
        if size is None:
            if not has_data:
                raise InvalidRequest(f"input {item.name!r} has neither data nor binary_data_size")
            text = memoryview(item.data)
            tensor = yield from tensor_from_json(
                item.name, item.datatype, shape, text, slice_bytes=slice_bytes
            )
            tensors.append(tensor)
            continue
        if has_data:
            raise InvalidRequest(f"input {item.name!r} has both data and binary_data_size")
        if type(size) is not int or size < 0:
            raise InvalidRequest(f"input {item.name!r}: binary_data_size is not a size: {size!r}")
        if position + size > len(raw):
            raise InvalidRequest(
                f"input {item.name!r}: binary_data_size is {size}, but only "
                f"{len(raw) - position} bytes are left in the body"
            )
        data = raw[position : position + size]
        tensors.append(tensor_from_bytes(item.name, item.datatype, shape, data))
        position += size
    if position != len(raw):
        raise InvalidRequest(f"{len(raw) - position} bytes of the body belong to no input")
    return tensors


def _has_data(item: _InputHeader) -> bool:
    data = memoryview(item.data)
    return data.nbytes > 0 and data != _NULL


def _wanted_outputs(
    outputs: list[_OutputHeader] | None, parameters: dict[str, Any], complaints: list[str]
) -> tuple[RequestedOutput, ...]:
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequest("parameter binary_data_output is true or false")
    if not outputs:
        return share_parameters((RequestedOutput(binary=binary, is_default=True),), parameters)
    wanted = tuple([_wanted_output(output, binary, complaints) for output in outputs])
    return share_parameters(wanted, parameters)


def _wanted_output(output: _OutputHeader, binary: bool, complaints: list[str]) -> RequestedOutput:
    parameters = _parameters(output.parameters)
    complaints.append(OUTPUT.complain(f"output {output.name!r}", parameters))
    binary = parameters.get("binary_data", binary)
    if not isinstance(binary, bool):
        raise InvalidRequest("parameter binary_data is true or false")
    return read_output(output.name, parameters, binary=binary)


def encode_answer(
    model: ModelSpec, answer: Answer, request_id: str, outputs: tuple[RequestedOutput, ...]
) -> tuple[bytes, int | None]:
    """Encode an answer: the body, and the length of its JSON if raw tensors follow."""
    document, raw = describe_answer(model, answer, request_id, outputs)
    return _joined(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), raw)


def encode_in_slices(
    document: dict[str, Any], raw: Sequence[Raw]
) -> Slices[tuple[bytes, int | None]]:
    """`encode_answer` in slices; `document` and `raw` are those of `describe_answer`."""
    for output in document["outputs"]:
        if isinstance(output.get("data"), np.ndarray):
            output["data"] = yield from encode_array(output["data"])
    return _joined(orjson.dumps(document), raw)


def _joined(header: bytes, raw: Sequence[Raw]) -> tuple[bytes, int | None]:
    return (b"".join([header, *raw]), len(header)) if raw else (header, None)


def describe_answer(
    model: ModelSpec, answer: Answer, request_id: str, outputs: tuple[RequestedOutput, ...]
) -> tuple[dict[str, Any], list[Raw]]:
    """The JSON document of an answer, with NumPy arrays, and the raw tensors that follow it."""
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
    document: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if request_id:
        document["id"] = request_id
    members = ",".join(member_names(model, answer.used))
    document["parameters"] = {
        "members": members,
        "degraded": answer.degraded,
        "generation": model.generation,
    }
    if model.variants:
        document["parameters"]["variants"] = model.variants_text
    document["outputs"] = described
    return document, raw


def _values(tensor: OutputTensor) -> Any:
    """A tensor's elements, flat, for JSON; what is not a number becomes null."""
    if tensor.datatype == "BYTES":
        return [bytes(element).decode() for element in split_elements(tensor.data)]
    return np.frombuffer(tensor.data, DTYPES[tensor.datatype])
