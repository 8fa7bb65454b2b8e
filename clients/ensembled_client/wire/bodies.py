"""Bodies of the protocol's infer requests and responses over HTTP. Pure.

A body is JSON, or JSON followed by the raw tensors that it describes (the binary tensor data
extension); then an HTTP header says how long the JSON is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ensembled_client.wire.tensors import (
    Array,
    RawTensor,
    WireError,
    datatype_of,
    decode_array,
    decode_json,
    dump_json,
    encode_array,
    encode_json,
)

__all__ = [
    "BINARY_CONTENT_TYPE",
    "CLASS_SCORES",
    "HEADER_LENGTH",
    "SCORES",
    "InferResponse",
    "binary_request",
    "decode_response",
    "json_request",
    "raw_tensor",
    "request_header",
]

#: The HTTP header with the length of a body's JSON, if raw tensors follow it.
HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY_CONTENT_TYPE = "application/octet-stream"

#: The outputs with the uncertainty scores of an ensemble of classifiers, in the server's order.
CLASS_SCORES = (
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variance",
    "vote_share",
    "disagreement",
)
#: All scores. Of the last two, the parts of a variance, one is of the data, one of the model.
SCORES = (*CLASS_SCORES, "aleatoric", "epistemic")


@dataclass(frozen=True)
class InferResponse:
    """A decoded response.

    Attributes:
        outputs: arrays [n, ...] by name; see `decode_array` for their dtypes.
        parameters: of the response.
    """

    outputs: Mapping[str, Array]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def raw_tensor(name: str, array: Array) -> RawTensor:
    """Return an array as a tensor of its own datatype; uint16 is UINT16, objects are BYTES.

    Raises:
        KeyError: if the protocol has no datatype for it.
    """
    return RawTensor(name, datatype_of(array.dtype), array.shape, encode_array(array))


def request_header(
    tensors: Iterable[RawTensor],
    *,
    outputs: Mapping[str, int] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the JSON of a binary request; the data of its tensors follows it in their order.

    `outputs` has the names of the outputs to answer with, all of them raw, and how many of the best
    classes to name instead of values, 0 for values; None for the model's default output.
    """
    document: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": len(tensor.data)},
            }
            for tensor in tensors
        ]
    }
    parameters = dict(parameters or {})
    if outputs is None:
        parameters["binary_data_output"] = True
    else:
        document["outputs"] = [_requested_output(*item) for item in outputs.items()]
    if parameters:
        document["parameters"] = parameters
    return dump_json(document).encode()


def _requested_output(name: str, classes: int) -> dict[str, Any]:
    classification = {"classification": classes} if classes else {}
    return {"name": name, "parameters": {"binary_data": True, **classification}}


def binary_request(
    inputs: Mapping[str, Array], parameters: Mapping[str, Any] | None = None
) -> tuple[bytes, dict[str, str]]:
    """Return the body of a binary request for the default output, raw, and its HTTP headers."""
    tensors = [raw_tensor(name, array) for name, array in inputs.items()]
    header = request_header(tensors, parameters=parameters)
    headers = {"Content-Type": BINARY_CONTENT_TYPE, HEADER_LENGTH: str(len(header))}
    return b"".join([header, *(tensor.data for tensor in tensors)]), headers


def json_request(inputs: Mapping[str, Array], parameters: Mapping[str, Any] | None = None) -> bytes:
    """Return the body of a JSON request for the default output as JSON.

    Raises:
        WireError: if an input holds what JSON can't express.
    """
    tensors = [_json_tensor(name, array) for name, array in inputs.items()]
    rest = f',"parameters":{dump_json(parameters)}' if parameters else ""
    return f'{{"inputs":[{",".join(tensors)}]{rest}}}'.encode()


def _json_tensor(name: str, array: Array) -> str:
    described = {"name": name, "datatype": datatype_of(array.dtype), "shape": array.shape}
    try:
        return f'{dump_json(described)[:-1]},"data":{encode_json(array)}}}'
    except WireError as error:
        raise WireError(f"input {name!r} {error}") from None


def decode_response(body: bytes, header_length: int | None) -> InferResponse:
    """Decode the body of an infer response; without `header_length` it is all JSON.

    Raises:
        WireError: if it is not what the protocol says, or bytes follow the last output.
    """
    try:
        document = json.loads(body[:header_length])
        position = len(body) if header_length is None else header_length
        outputs: dict[str, Array] = {}
        for described in document["outputs"]:
            name, datatype, shape = described["name"], described["datatype"], described["shape"]
            size = described.get("parameters", {}).get("binary_data_size")
            if size is None:
                outputs[name] = decode_json(datatype, shape, described["data"])
                continue
            raw = memoryview(body)[position : position + size]
            outputs[name] = decode_array(datatype, shape, raw)
            position += size
        parameters = document.get("parameters", {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"the body is no infer response: {error!r}") from error
    if not isinstance(parameters, Mapping):
        raise WireError("the body is no infer response: its parameters are no object")
    if position != len(body):
        raise WireError("the body is longer than its outputs")
    return InferResponse(outputs, parameters)
