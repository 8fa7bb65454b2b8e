"""The requests that measure an allocation: random rows of what a server's models take.

Runs in the process of the command line. A server's address and the names of models flow in,
requests flow out: binary, and of several rows, so that clients take little of the machine that
they share with the server.
"""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import DTYPES, binary_request

from server.measurement.server import MeasurementError

__all__ = ["TIMEOUT_S", "InferRequest", "checked", "load_requests"]

#: How long an answer may take.
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class InferRequest:
    """A request that can be sent any number of times."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    rows: int


def load_requests(
    address: str,
    models: Sequence[str],
    rows: int,
    *,
    image_sizes: Mapping[str, int],
    most_bytes: int,
    seed: int = 0,
) -> list[InferRequest]:
    """Make one request with random rows for each of some models.

    Args:
        address: ``HOST:PORT`` of a server, which says what the models take.
        models: their names.
        rows: of each request; fewer if the body would be too large.
        image_sizes: by model that takes images, the height and width to send, in pixels.
        most_bytes: of a body.
        seed: of all chance.

    Raises:
        MeasurementError: if the server does not answer.
    """
    generator = np.random.default_rng(seed)
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        requests = []
        for model in models:
            connection.request("GET", f"/v2/models/{model}")
            response = connection.getresponse()
            described = json.loads(checked(response, response.read()))["inputs"]
            shapes = [_row(tensor, image_sizes.get(model, 0)) for tensor in described]
            row_bytes = sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in shapes)
            # Half is left to the header, whatever it is.
            fitting = max(1, min(rows, most_bytes // 2 // max(row_bytes, 1)))
            requests.append(_infer_request(model, shapes, fitting, generator))
        return requests
    except (OSError, http.client.HTTPException) as error:
        raise MeasurementError(f"it does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()


def checked(response: http.client.HTTPResponse, body: bytes) -> bytes:
    """Return the body of an answer.

    Raises:
        MeasurementError: if it is not one, but an error.
    """
    if response.status != http.client.OK:
        text = body[:200].decode(errors="replace")
        raise MeasurementError(f"it answers {response.status}: {text}")
    return body


_Input = tuple[str, np.dtype[Any], tuple[int, ...]]


def _row(tensor: Mapping[str, Any], image_size: int) -> _Input:
    """What is sent for an input: its name, type, and shape without the batch dimension."""
    if tensor["datatype"] == "BYTES":  # an image, which may be sent as pixels
        return tensor["name"], np.dtype(np.uint8), (image_size, image_size, 3)
    return tensor["name"], DTYPES[tensor["datatype"]], tuple(tensor["shape"][1:])


def _infer_request(
    model: str, inputs: Sequence[_Input], rows: int, generator: np.random.Generator
) -> InferRequest:
    arrays = {name: _random(dtype, (rows, *shape), generator) for name, dtype, shape in inputs}
    body, headers = binary_request(arrays)
    return InferRequest(f"/v2/models/{model}/infer", body, headers, rows)


def _random(
    dtype: np.dtype[Any], shape: tuple[int, ...], generator: np.random.Generator
) -> npt.NDArray[Any]:
    if dtype == np.uint8:
        return generator.integers(0, 256, shape, np.uint8)
    if np.issubdtype(dtype, np.floating):
        return generator.random(shape, np.float32).astype(dtype)
    return np.zeros(shape, dtype)  # any other number may be none that the network knows
