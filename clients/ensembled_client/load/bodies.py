"""Requests as they go to the wire, made of inputs. Pure, but for the API key.

Three forms: JSON in and out, JSON with raw tensors in and out, and gRPC's message with raw tensors.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensembled_client.load.api_key import authorization
from ensembled_client.load.errors import LoadTestError, UsageError
from ensembled_client.load.target import Target
from ensembled_client.load.tensors import Inputs, InputSpec
from ensembled_client.load.workload import Workload

__all__ = ["Parameters", "http_request", "make_workload"]

_LENGTH = struct.Struct("<I")
# What all requests of a test may take together, in each process.
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Parameters:
    """Parameters of every request.

    Attributes:
        timeout_s: the deadline that the server keeps to; None for its own.
        members: only these members, by commas; None for all.
    """

    timeout_s: float | None = None
    members: str | None = None

    @property
    def document(self) -> dict[str, Any]:
        """As the protocol has them."""
        document: dict[str, Any] = {}
        if self.timeout_s is not None:
            document["timeout"] = max(1, round(self.timeout_s * 1e6))
        if self.members is not None:
            document["members"] = self.members
        return document


def make_workload(
    target: Target,
    specs: Sequence[InputSpec],
    inputs: Mapping[int, Iterator[Inputs]],
    parameters: Parameters,
    *,
    rows: int,
    distinct: int,
) -> Workload:
    """Make the requests of a test.

    Args:
        target: who is asked, and how.
        specs: the model's inputs.
        inputs: by number of rows; as many are taken as are needed.
        parameters: of each request.
        rows: of requests whose arrival does not say it.
        distinct: how many different requests per number of rows; fewer, if they are large.

    Raises:
        LoadTestError: if a request can't be made in this protocol.
    """
    if target.protocol == "grpc":
        from ensembled_client.load.grpc_messages import grpc_request as make  # noqa: PLC0415
    else:
        make = http_request
    requests = {}
    for count, arrays in inputs.items():
        made = (make(target, specs, one, parameters) for one in arrays)
        requests[count] = tuple(_within(made, distinct, _MOST_BYTES // len(inputs)))
    return Workload(rows, requests)


def _within(requests: Iterable[bytes], count: int, most_bytes: int) -> Iterator[bytes]:
    """The first `count` requests, but no more than fit; one in any case."""
    total_bytes = 0
    for number, request in enumerate(itertools.islice(requests, count)):
        total_bytes += len(request)
        if number and total_bytes > most_bytes:
            return
        yield request


def http_request(
    target: Target, specs: Sequence[InputSpec], inputs: Inputs, parameters: Parameters
) -> bytes:
    """Return a whole HTTP request, head and body.

    Raises:
        LoadTestError: if the inputs can't be JSON, as it is asked for.
    """
    if target.protocol == "json":
        kind, length, body = "application/json", "", _json_body(specs, inputs, parameters)
    else:
        header, raw = _binary_body(specs, inputs, parameters)
        kind, body = "application/octet-stream", header + raw
        length = f"Inference-Header-Content-Length: {len(header)}\r\n"
    head = (
        f"POST {target.model_path}/infer HTTP/1.1\r\n"
        f"Host: {target.authority}\r\n"
        f"User-Agent: ensembled-load\r\n"
        f"Content-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{length}{_authorization()}\r\n"
    )
    return head.encode() + body


def _authorization() -> str:
    return "".join(f"{name}: {text}\r\n" for name, text in authorization().items())


def _described(spec: InputSpec, array: npt.NDArray[Any]) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(array.shape)}


def _binary_body(
    specs: Sequence[InputSpec], inputs: Inputs, parameters: Parameters
) -> tuple[bytes, bytes]:
    tensors, raws = [], []
    for spec in specs:
        array = inputs[spec.name]
        raw = raw_bytes(array)
        tensors.append({**_described(spec, array), "parameters": {"binary_data_size": len(raw)}})
        raws.append(raw)
    document = {
        "parameters": {**parameters.document, "binary_data_output": True},
        "inputs": tensors,
    }
    return json.dumps(document).encode(), b"".join(raws)


def raw_bytes(array: npt.NDArray[Any]) -> bytes:
    """The array as the protocol has it: little-endian, BYTES elements with their lengths."""
    if array.dtype.kind == "O":
        return b"".join(
            part for one in array.ravel() for part in (_LENGTH.pack(len(one)), bytes(one))
        )
    return np.ascontiguousarray(array).tobytes()


def _json_body(specs: Sequence[InputSpec], inputs: Inputs, parameters: Parameters) -> bytes:
    tensors = []
    for spec in specs:
        described = json.dumps(_described(spec, inputs[spec.name]))
        tensors.append(f'{described[:-1]}, "data": {_json_values(spec, inputs[spec.name])}}}')
    rest = f', "parameters": {json.dumps(parameters.document)}' if parameters.document else ""
    return f'{{"inputs": [{", ".join(tensors)}]{rest}}}'.encode()


def _json_values(spec: InputSpec, array: npt.NDArray[Any]) -> str:
    if spec.is_image:
        raise UsageError("encoded images can't be JSON: use --protocol binary, or grpc")
    if array.dtype.kind == "O":
        try:
            return json.dumps([one.decode() for one in array.ravel()])
        except UnicodeDecodeError:
            raise LoadTestError(f"input {spec.name!r} is no text: it can't be JSON") from None
    if array.dtype.kind != "f":
        return json.dumps(array.ravel().tolist())
    if not np.isfinite(array).all():
        raise LoadTestError(f"input {spec.name!r} holds NaN or infinity, which JSON has not")
    # The shortest text that means the same number: 0.1, not 0.10000000149011612.
    return f"[{', '.join(map(str, array.ravel()))}]"
