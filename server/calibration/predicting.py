"""What members predict of rows, asked of a server of its own: the very path that clients use.

Runs in the process of the command line. A configuration, members and inputs flow in, each member's
predictions flow out. The server is a child on a free port of the loopback interface and ends with
the block; each member is asked as a model by itself, in batches, all of them at the same time.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import HEADER_LENGTH, binary_request, decode_response

from allocator.matrix import AllocationMatrix
from server.calibration.dataset import Inputs
from server.errors import StartError
from server.measurement.requests import TIMEOUT_S, checked
from server.measurement.server import MeasurementError, measured_server

__all__ = ["Asking", "asking", "predict"]

_ROWS = 64
_MOST_CLIENTS = 8

Array = npt.NDArray[Any]


class Asking:
    """A server that is up.

    Args:
        address: ``HOST:PORT`` of its HTTP interface.
        most_bytes: of a request's body.
    """

    def __init__(self, address: str, most_bytes: int) -> None:
        self._address, self._most_bytes = address, most_bytes

    def members(self, names: Sequence[str], inputs: Inputs) -> list[Array]:
        """Return what each member predicts of all rows, a list of [rows, *outputs].

        Raises:
            StartError: if one of them fails.
        """
        with ThreadPoolExecutor(min(len(names), _MOST_CLIENTS)) as pool:
            return list(pool.map(lambda name: self.model(name, inputs), names))

    def model(self, name: str, inputs: Inputs) -> Array:
        """Return what a model answers to all rows, [rows, *outputs].

        Raises:
            StartError: if it fails.
        """
        try:
            return predict(self._address, name, inputs, self._most_bytes)
        except MeasurementError as error:
            raise StartError(f"{name}: {error}") from None


@contextmanager
def asking(config: Path, matrix: AllocationMatrix, most_bytes: int) -> Iterator[Asking]:
    """Serve a configuration for the length of a block.

    Args:
        config: its file.
        matrix: which member runs where.
        most_bytes: of a request's body, as the configuration allows.

    Raises:
        StartError: if the server does not become ready.
    """
    try:
        with measured_server(config, matrix) as address:
            yield Asking(address, most_bytes)
    except MeasurementError as error:
        raise StartError(f"the server that is to predict: {error}") from None


def predict(address: str, model: str, inputs: Inputs, most_bytes: int) -> Array:
    """Ask a model about all rows, in batches one after the other.

    Args:
        address: ``HOST:PORT`` of a server.
        model: its name.
        inputs: by name, [rows, ...].
        most_bytes: of a request's body.

    Raises:
        MeasurementError: if it does not answer, or answers an error.
    """
    rows = len(next(iter(inputs.values())))
    row_bytes = sum(array.nbytes for array in inputs.values()) // rows
    # Half is left to the header, whatever it is.
    step = max(1, min(_ROWS, most_bytes // 2 // max(row_bytes, 1)))
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        parts = []
        for start in range(0, rows, step):
            batch = {name: array[start : start + step] for name, array in inputs.items()}
            parts.append(_ask(connection, model, batch))
        return np.concatenate(parts)
    except (OSError, http.client.HTTPException) as error:
        raise MeasurementError(f"it does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()


def _ask(connection: http.client.HTTPConnection, model: str, inputs: Inputs) -> Array:
    body, headers = binary_request(inputs)
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    response = connection.getresponse()
    answer = checked(response, response.read())
    (values,) = decode_response(answer, int(response.headers[HEADER_LENGTH])).outputs.values()
    return values
