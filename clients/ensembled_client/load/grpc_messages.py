"""The messages that a load test over gRPC needs, and what its answers are worth. Pure.

Requests are serialised before the test, and answers stay bytes: parsing protobuf in Python for each
of them would make the tester the bottleneck. See `answers` for what is checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from ensembled_client.load.answers import Verdict, document_fault
from ensembled_client.load.bodies import Parameters, raw_bytes
from ensembled_client.load.target import Target
from ensembled_client.load.tensors import Inputs, InputSpec
from ensembled_client.wire.messages import SERVICE, message_class

__all__ = [
    "INFER",
    "METADATA",
    "GrpcJudge",
    "grpc_request",
    "metadata_document",
    "metadata_request",
]

INFER = f"/{SERVICE}/ModelInfer"
METADATA = f"/{SERVICE}/ModelMetadata"

# An entry of the map `parameters` with the key "degraded" and the value {bool_param: true}.
_DEGRADED = re.compile(rb"\n\x08degraded\x12\x02\x08\x01")


def grpc_request(
    target: Target, specs: Sequence[InputSpec], inputs: Inputs, parameters: Parameters
) -> bytes:
    """Return a serialised ModelInferRequest."""
    message = message_class("ModelInferRequest")(model_name=target.model)
    for name, value in parameters.document.items():
        kind = "string_param" if isinstance(value, str) else "int64_param"
        setattr(message.parameters[name], kind, value)
    for spec in specs:
        array = inputs[spec.name]
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        message.raw_input_contents.append(raw_bytes(array))
    serialised: bytes = message.SerializeToString()
    return serialised


def metadata_request(model: str) -> bytes:
    """Return a serialised ModelMetadataRequest."""
    serialised: bytes = message_class("ModelMetadataRequest")(name=model).SerializeToString()
    return serialised


def metadata_document(answer: bytes) -> dict[str, Any]:
    """Return a model's metadata as HTTP has it.

    Raises:
        DecodeError: if the bytes are no ModelMetadataResponse.
    """
    message = message_class("ModelMetadataResponse").FromString(answer)
    return {
        "name": message.name,
        "inputs": [
            {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
            for one in message.inputs
        ],
    }


class GrpcJudge:
    """Judges the answers of one lane."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def judge(self, answer: bytes, rows: int) -> Verdict:
        """Judge the answer to a request of so many rows."""
        if rows not in self._seen:
            fault = _fault(answer, rows)
            if fault is not None:
                return Verdict(f"wrong answer: {fault}")
            self._seen.add(rows)
        elif not answer:
            return Verdict("wrong answer: it is empty")
        return Verdict(None, _DEGRADED.search(answer) is not None)


def _fault(answer: bytes, rows: int) -> str | None:
    try:
        message = message_class("ModelInferResponse").FromString(answer)
        raws = message.raw_output_contents
        if len(raws) != len(message.outputs):
            return "it has not as many raw contents as outputs"
        outputs = [
            {
                "name": one.name,
                "datatype": one.datatype,
                "shape": list(one.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
            for one, raw in zip(message.outputs, raws, strict=True)
        ]
        return document_fault({"outputs": outputs}, rows, sum(map(len, raws)))
    except (DecodeError, IndexError):
        return "it is not what the protocol says"
