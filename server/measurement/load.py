"""The load by which an allocation is measured: clients with one request in flight each.

Runs in the process of the command line, a thread per client. A server's address and the names of
models flow in, rows per second flow out. The requests are random rows of what the models take;
binary, and of several rows, so that the clients take little of the machine that they share with
the server.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import DTYPES, HEADER_LENGTH, binary_request

from server.measurement.server import MeasurementError

__all__ = ["Exchange", "LoadRequest", "make_requests", "measure_rows_s", "rows_within"]

_TIMEOUT_S = 60.0
#: The server is full (429), or an answer came too late for its deadline (504): not an error.
_BUSY = {429, 504}
_PAUSE_S = 0.02


@dataclass(frozen=True)
class LoadRequest:
    """A request that can be sent any number of times."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    rows: int


@dataclass(frozen=True)
class Exchange:
    """A request that was answered.

    Attributes:
        started_s: when it was sent, by the monotonic clock.
        ended_s: when its answer was complete.
        rows: that all members predicted.
    """

    started_s: float
    ended_s: float
    rows: int


def make_requests(
    address: str, image_sizes: Mapping[str, int], rows: int, *, max_bytes: int, seed: int = 0
) -> list[LoadRequest]:
    """Make one request with random rows for each of some models.

    Args:
        address: ``HOST:PORT`` of a server, which says what the models take.
        image_sizes: by model, the height and width to send in pixels, if it takes images.
        rows: of each request; fewer if the body would be too large.
        max_bytes: of a body.
        seed: of all randomness.

    Raises:
        MeasurementError: if the server does not answer.
    """
    generator = np.random.default_rng(seed)
    with closing(http.client.HTTPConnection(address, timeout=_TIMEOUT_S)) as connection:
        try:
            requests = []
            for model, image_size in image_sizes.items():
                connection.request("GET", f"/v2/models/{model}")
                response = connection.getresponse()
                described = json.loads(_checked(response, response.read()))["inputs"]
                inputs = {tensor["name"]: _row_type(tensor, image_size) for tensor in described}
                row_bytes = sum(
                    dtype.itemsize * math.prod(shape) for dtype, shape in inputs.values()
                )
                # Half is left to the header, whatever it is.
                fitting = max(1, min(rows, max_bytes // 2 // max(row_bytes, 1)))
                arrays = {
                    name: _random(dtype, (fitting, *shape), generator)
                    for name, (dtype, shape) in inputs.items()
                }
                body, headers = binary_request(arrays)
                requests.append(LoadRequest(f"/v2/models/{model}/infer", body, headers, fitting))
            return requests
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise MeasurementError(f"it does not answer: {reason}") from None


def _row_type(tensor: Mapping[str, Any], image_size: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """What is sent for a row of an input: its type and shape."""
    if tensor["datatype"] == "BYTES":  # an image, which may be sent as pixels
        return np.dtype(np.uint8), (image_size, image_size, 3)
    return DTYPES[tensor["datatype"]], tuple(tensor["shape"][1:])


def _random(
    dtype: np.dtype[Any], shape: tuple[int, ...], generator: np.random.Generator
) -> npt.NDArray[Any]:
    if dtype == np.uint8:
        return generator.integers(0, 256, shape, np.uint8)
    if np.issubdtype(dtype, np.floating):
        return generator.random(shape, np.float32).astype(dtype)
    return np.zeros(shape, dtype)  # an embedding may not have any other index


def rows_within(exchanges: Iterable[Exchange], start_s: float, end_s: float) -> float:
    """How many rows were answered in an interval of time.

    An exchange counts by the share of it that lies within, so that the result of a short interval
    in which few answers end does not depend on luck.
    """
    return sum(
        one.rows
        * max(0.0, min(one.ended_s, end_s) - max(one.started_s, start_s))
        / (one.ended_s - one.started_s)
        for one in exchanges
        if one.ended_s > one.started_s
    )


def measure_rows_s(
    address: str, requests: Sequence[LoadRequest], clients: int, seconds: float
) -> float:
    """Load a server, and return how many rows per second it answers.

    It is warmed up until every client has had an answer. A row counts if all members predicted it.

    Args:
        address: ``HOST:PORT``.
        requests: every client sends them in turn, over and over.
        clients: how many there are, 1 or more; each has one request in flight.
        seconds: how long to measure.

    Raises:
        MeasurementError: if a request fails.
    """
    stopped, warm = threading.Event(), threading.Semaphore(0)
    with ThreadPoolExecutor(clients) as pool:
        futures = [
            pool.submit(_run_client, address, requests, first, stopped, warm)
            for first in range(clients)
        ]
        try:
            for _ in futures:
                warm.acquire()
            start_s = time.monotonic()
            stopped.wait(seconds)
            end_s = time.monotonic()
        finally:
            stopped.set()
    exchanges = [exchange for future in futures for exchange in future.result()]
    return rows_within(exchanges, start_s, end_s) / (end_s - start_s)


def _run_client(
    address: str,
    requests: Sequence[LoadRequest],
    first: int,
    stopped: threading.Event,
    warm: threading.Semaphore,
) -> list[Exchange]:
    """Send requests until the load is stopped, which a failure does for all clients."""
    exchanges: list[Exchange] = []
    with closing(http.client.HTTPConnection(address, timeout=_TIMEOUT_S)) as connection:
        try:
            for number in count(first):
                if stopped.is_set():
                    break
                request = requests[number % len(requests)]
                started_s = time.monotonic()
                connection.request("POST", request.path, request.body, request.headers)
                response = connection.getresponse()
                rows = _answered_rows(response, response.read(), request)
                exchanges.append(Exchange(started_s, time.monotonic(), rows))
                if number == first:
                    warm.release()
                if response.status in _BUSY:
                    stopped.wait(_PAUSE_S)
        except (OSError, http.client.HTTPException) as error:
            raise MeasurementError(str(error) or type(error).__name__) from None
        finally:
            stopped.set()
            warm.release()  # a failed client is not waited for
    return exchanges


def _answered_rows(response: http.client.HTTPResponse, body: bytes, request: LoadRequest) -> int:
    if response.status in _BUSY:
        return 0
    _checked(response, body)
    header = json.loads(body[: int(response.getheader(HEADER_LENGTH, str(len(body))))])
    return 0 if header["parameters"]["degraded"] else request.rows


def _checked(response: http.client.HTTPResponse, body: bytes) -> bytes:
    """Return the body of an answer.

    Raises:
        MeasurementError: if it is an error.
    """
    if response.status != http.client.OK:
        text = body[:200].decode(errors="replace")
        raise MeasurementError(f"it answers {response.status}: {text}")
    return body
