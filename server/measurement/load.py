"""The load by which an allocation is measured: clients with one request in flight each.

Runs in the process of the command line, a thread per client. A server's address and its
configuration flow in, rows per second flow out. The requests are random rows of what the models
take; of several rows, so that the clients take little of the machine that they share with the
server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
from ensembled_client import (
    DeadlineExceeded,
    EnsembleClient,
    EnsembledClientError,
    Overloaded,
    Prediction,
)
from ensembled_client.wire import DTYPES

from server.config import Config
from server.measurement.server import MeasurementError
from server.versions import split_name

__all__ = ["Exchange", "Intensity", "loaded_models", "measure_rows_s", "rows_within"]

_TIMEOUT_S = 60.0
_PAUSE_S = 0.02

Request = Callable[[], Prediction]


@dataclass(frozen=True)
class Intensity:
    """How much load there is: clients with one request of so many rows in flight each."""

    clients: int
    rows: int


@dataclass(frozen=True)
class Exchange:
    """A request that was answered, by the monotonic clock.

    Its answer was complete at `ended_s`; `rows` are those that all members predicted.
    """

    started_s: float
    ended_s: float
    rows: int


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


def loaded_models(config: Config) -> list[str]:
    """The models that requests are for in equal shares: all ensembles, or else all members."""
    return list(config.ensembles or config.members)


def measure_rows_s(address: str, config: Config, load: Intensity, seconds: float) -> float:
    """Load a server, and return how many rows per second it answers.

    It is warmed up until every client has had an answer. A row counts if all members predicted it.

    Raises:
        MeasurementError: if a request fails.
    """
    try:
        url = f"http://{address}"
        with EnsembleClient(url, retries=0, connections=load.clients) as client:
            requests = _make_requests(client, config, load.rows)
            return _measure(requests, load.clients, seconds)
    except EnsembledClientError as error:
        what = f"answers {error.status}" if error.status else "does not answer"
        raise MeasurementError(f"it {what}: {error.message}") from None


def _make_requests(client: EnsembleClient, config: Config, rows: int) -> list[Request]:
    """A request with random rows for each model."""
    generator = np.random.default_rng(0)
    requests: list[Request] = []
    for model in loaded_models(config):
        ensemble = config.ensembles.get(model)
        members = [config.members[name] for name in (ensemble.members if ensemble else (model,))]
        image_size = max(one.image.size if one.image else 0 for one in members)
        name, version = split_name(model)
        inputs = {
            tensor["name"]: _random_rows(tensor, rows, image_size, generator)
            for tensor in client.metadata(name, version)["inputs"]
        }
        deadline_ms = ensemble.deadline_ms if ensemble else None
        timeout_s = deadline_ms / 1e3 if deadline_ms else _TIMEOUT_S
        requests.append(partial(client.predict, name, inputs, timeout=timeout_s, version=version))
    return requests


def _random_rows(
    tensor: Mapping[str, Any], rows: int, image_size: int, generator: np.random.Generator
) -> npt.NDArray[Any]:
    """Random rows of an input; images are sent as pixels."""
    if tensor["datatype"] == "BYTES":
        return generator.integers(0, 256, (rows, image_size, image_size, 3), np.uint8)
    dtype, shape = DTYPES[tensor["datatype"]], (rows, *tensor["shape"][1:])
    if dtype == np.uint8:
        return generator.integers(0, 256, shape, np.uint8)
    if np.issubdtype(dtype, np.floating):
        return generator.random(shape, np.float32).astype(dtype)
    return np.zeros(shape, dtype)  # an embedding may not have any other index


def _measure(requests: Sequence[Request], clients: int, seconds: float) -> float:
    stopped, warm = threading.Event(), threading.Semaphore(0)

    def run(first: int) -> list[Exchange]:
        """Send requests until the load is stopped, which a failure does for all clients."""
        exchanges: list[Exchange] = []
        try:
            for number in count(first):
                if stopped.is_set():
                    return exchanges
                started_s = time.monotonic()
                rows = _predicted_rows(requests[number % len(requests)])
                exchanges.append(Exchange(started_s, time.monotonic(), rows or 0))
                if number == first:
                    warm.release()
                if rows is None:
                    stopped.wait(_PAUSE_S)
        finally:
            stopped.set()
            warm.release()  # a failed client is not waited for
        return exchanges

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(run, first) for first in range(clients)]
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


def _predicted_rows(request: Request) -> int | None:
    """The rows that all members predicted; None if the server is busy, which is no error."""
    try:
        answer = request()
    except (Overloaded, DeadlineExceeded):
        return None
    return 0 if answer.degraded else len(answer)
