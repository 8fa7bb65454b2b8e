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

from server.errors import InvalidRequest
from server.front_end_spec import ModelSpec
from server.inflight import Answer
from server.tensors import Tensor, bytes_to_wire, tensor_from_bytes, tensor_from_values

__all__ = ["InferRequest", "RequestedOutput", "encode_answer", "parse_request"]

_MAX_HEADERS = 1024
_MAX_TIMEOUT_US = 10**15
#: Parameters whose meaning is settled and that must not be passed over in silence.
_PLANNED = ("members", "quorum")


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


class RequestedOutput(msgspec.Struct, frozen=True):
    """How the client wants the combined output: raw or JSON, as it is or as the best classes."""

    binary: bool = False
    classes: int = 0


class InferRequest(msgspec.Struct, frozen=True):
    """An infer request.

    Attributes:
        id: to be echoed, may be empty.
        tensors: the inputs, sizes checked, names not.
        output: how the answer is wanted.
        timeout_s: the request's own deadline, 0 for none.
    """

    id: str
    tensors: list[Tensor]
    output: RequestedOutput
    timeout_s: float = 0.0


def parse_request(body: bytes | bytearray, header_length: int | None) -> InferRequest:
    """Parse an infer request's body.

    Args:
        body: JSON, or JSON and raw tensors.
        header_length: the length of the JSON in bytes, None if the body is all JSON.

    Raises:
        InvalidRequest: in one line.
    """
    view = memoryview(body)
    if header_length is not None and not 0 <= header_length <= len(view):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {header_length}, the body has {len(view)} bytes"
        )
    try:
        header = _decode_header(view if header_length is None else view[:header_length])
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the JSON of the request is not valid: {error}") from None
    for name in _PLANNED:
        if name in header.parameters:
            raise InvalidRequest(f"parameter {name} is not available in this version")
    return InferRequest(
        id=header.id,
        tensors=_tensors(header.inputs, view[header_length:] if header_length is not None else b""),
        output=_requested_output(header),
        timeout_s=_timeout_s(header.parameters),
    )


def _tensors(inputs: list[_InputHeader], raw: memoryview | bytes) -> list[Tensor]:
    tensors: list[Tensor] = []
    position = 0
    for item in inputs:
        size = item.parameters.get("binary_data_size")
        if size is None:
            if item.data is msgspec.UNSET:
                raise InvalidRequest(f"input {item.name!r} has neither data nor binary_data_size")
            tensors.append(tensor_from_values(item.name, item.datatype, item.shape, item.data))
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


def _requested_output(header: _RequestHeader) -> RequestedOutput:
    binary = header.parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequest("parameter binary_data_output is true or false")
    if not header.outputs:
        return RequestedOutput(binary)
    if len(header.outputs) > 1 or header.outputs[0].name != "output":
        names = [output.name for output in header.outputs]
        raise InvalidRequest(f"the model has one output, 'output'; the request asks for {names}")
    parameters = header.outputs[0].parameters
    binary = parameters.get("binary_data", binary)
    if not isinstance(binary, bool):
        raise InvalidRequest("parameter binary_data is true or false")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidRequest("parameter classification is how many classes to name")
    return RequestedOutput(binary, classes)


def _timeout_s(parameters: dict[str, Any]) -> float:
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout <= _MAX_TIMEOUT_US:
        raise InvalidRequest(f"parameter timeout is 0 to {_MAX_TIMEOUT_US} microseconds")
    return timeout / 1e6


_headers: dict[tuple[str, int, int, bool], bytes] = {}


def encode_answer(
    model: ModelSpec, answer: Answer, request_id: str, output: RequestedOutput
) -> tuple[bytes, int | None]:
    """Encode an answer: the body, and the length of its JSON if raw tensors follow."""
    if output.classes:
        return _encode_classes(model, answer, request_id, output)
    spec = model.served.spec.output
    shape = [answer.rows, *spec.shape]
    if not output.binary:
        values = np.frombuffer(answer.values, spec.dtype)
        described = {"name": "output", "datatype": spec.datatype, "shape": shape, "data": values}
        return _encode_json(model, answer, request_id, described), None
    key = (model.served.name, answer.rows, answer.used, answer.degraded)
    header = _headers.get(key) if not request_id else None
    if header is None:
        size = len(answer.values)
        header = _encode_json(
            model,
            answer,
            request_id,
            {
                "name": "output",
                "datatype": spec.datatype,
                "shape": shape,
                "parameters": {"binary_data_size": size},
            },
        )
        if not request_id and len(_headers) < _MAX_HEADERS:
            _headers[key] = header
    return header + answer.values, len(header)


def _encode_json(
    model: ModelSpec, answer: Answer, request_id: str, output: dict[str, Any]
) -> bytes:
    members = [
        name
        for member, name in zip(model.served.spec.members, model.members, strict=True)
        if answer.used >> member & 1
    ]
    document: dict[str, Any] = {"model_name": model.served.name, "model_version": "1"}
    if request_id:
        document["id"] = request_id
    document["parameters"] = {"members": ",".join(members), "degraded": answer.degraded}
    document["outputs"] = [output]
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _encode_classes(
    model: ModelSpec, answer: Answer, request_id: str, output: RequestedOutput
) -> tuple[bytes, int | None]:
    """The best classes of each row as BYTES [rows, k]: ``score:index[:label]``, best first."""
    spec = model.served.spec.output
    if len(spec.shape) != 1:
        raise InvalidRequest(f"classification needs an output per class, not {list(spec.shape)}")
    scores = np.frombuffer(answer.values, spec.dtype).reshape(answer.rows, -1)
    k = min(output.classes, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    texts = [
        _class_text(scores[row, index], int(index), model.labels)
        for row in range(answer.rows)
        for index in best[row]
    ]
    described: dict[str, Any] = {"name": "output", "datatype": "BYTES", "shape": [answer.rows, k]}
    if not output.binary:
        described["data"] = texts
        return _encode_json(model, answer, request_id, described), None
    raw = bytes_to_wire([text.encode() for text in texts])
    described["parameters"] = {"binary_data_size": len(raw)}
    header = _encode_json(model, answer, request_id, described)
    return header + raw, len(header)


def _class_text(score: Any, index: int, labels: Sequence[str]) -> str:
    text = f"{score:f}:{index}"
    return f"{text}:{labels[index]}" if labels else text
