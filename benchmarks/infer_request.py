"""Infer requests as load generators send them, and one exchange to check the answer.

The body is made once, here, and sent thousands of times.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ensembled_client import wire

from benchmarks.errors import BenchmarkError
from workers.backends.base import Array
from workers.runtime.spec import TensorSpec

__all__ = [
    "EncodedRequest",
    "ask",
    "binary_request",
    "check_answer",
    "exchange",
    "json_request",
    "model_input",
]

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class EncodedRequest:
    """A request that can be sent any number of times."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def binary_request(
    model: str, name: str, rows: Array, parameters: Mapping[str, Any] | None = None
) -> EncodedRequest:
    """Return a request with a raw tensor, which wants a raw answer.

    Args:
        model: who is asked.
        name: the input's name.
        rows: [n, ...], of the input's type.
        parameters: of the request.
    """
    body, headers = wire.binary_request({name: rows}, parameters)
    return EncodedRequest(_path(model), body, headers)


def json_request(
    model: str, name: str, rows: Array, parameters: Mapping[str, Any] | None = None
) -> EncodedRequest:
    """Return the same request as JSON, which wants JSON."""
    headers = {"Content-Type": "application/json"}
    return EncodedRequest(_path(model), wire.json_request({name: rows}, parameters), headers)


def _path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def model_input(address: str, model: str) -> TensorSpec:
    """Ask a server for the one input of a model, without its batch dimension.

    Raises:
        BenchmarkError: if the model has another number of inputs.
    """
    described = json.loads(exchange(address, EncodedRequest(f"/v2/models/{model}", b""))[0])
    if len(described["inputs"]) != 1:
        raise BenchmarkError(f"{model} has {len(described['inputs'])} inputs, one is measured")
    (tensor,) = described["inputs"]
    return TensorSpec(tensor["name"], tensor["datatype"], tuple(tensor["shape"][1:]))


def ask(address: str, request: EncodedRequest) -> npt.NDArray[np.float32]:
    """Send a request once and return its FP32 answer, [n, *outputs].

    Raises:
        BenchmarkError: if the answer is not one.
    """
    body, json_length = exchange(address, request)
    (values,) = wire.decode_response(body, json_length).outputs.values()
    if values.dtype != np.float32:
        raise BenchmarkError(f"the answer is {values.dtype}, FP32 is measured")
    return values


def exchange(address: str, request: EncodedRequest) -> tuple[bytes, int | None]:
    """Send a request once; its answer's body, and how much of that is JSON if not all of it.

    Raises:
        BenchmarkError: if the answer is an error.
        OSError: if nobody answers.
        http.client.HTTPException: if what comes is not an answer.
    """
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
    try:
        method = "POST" if request.body else "GET"
        connection.request(method, request.path, request.body or None, request.headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            text = body[:200].decode(errors="replace")
            raise BenchmarkError(f"{request.path} answers {response.status}: {text}")
        length = response.getheader(wire.HEADER_LENGTH)
        return body, int(length) if length else None
    finally:
        connection.close()


def check_answer(got: Array, expected: Array) -> None:
    """Compare a served answer with the one expected.

    Raises:
        BenchmarkError: if they differ by more than rounding.
    """
    if got.shape != expected.shape:
        raise BenchmarkError(f"the answer has shape {got.shape}, {expected.shape} is right")
    if not np.allclose(got, expected, rtol=1e-3, atol=1e-5):
        worst = float(np.abs(np.subtract(got, expected)).max())
        raise BenchmarkError(f"the server's answer is wrong: it differs by up to {worst:g}")
