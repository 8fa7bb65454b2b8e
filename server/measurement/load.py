"""The load by which an allocation is measured: clients that each wait for their answer.

Runs in the process of the command line, a thread per client. A server's address and requests flow
in, rows per second flow out. The requests are binary and of several rows, so that the clients take
little of the machine that they share with the server.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ensembled_client.wire import HEADER_LENGTH

from server.measurement.requests import TIMEOUT_S, InferRequest, checked
from server.measurement.server import MeasurementError

__all__ = ["Exchange", "measure_rows_s", "rows_within"]

#: The server is full (429), or an answer came too late for its deadline (504): not an error.
_BUSY = {429, 504}
_PAUSE_S = 0.02


@dataclass(frozen=True)
class Exchange:
    """A request that was answered.

    Attributes:
        started_s: when it was sent, by the monotonic clock.
        ended_s: when its answer was there.
        rows: that all members predicted.
    """

    started_s: float
    ended_s: float
    rows: int


def rows_within(exchanges: Iterable[Exchange], start_s: float, end_s: float) -> float:
    """How many rows were answered in a stretch of time.

    An exchange counts by the share of it that lies within, so that a short stretch in which few
    answers end is no matter of luck.
    """
    return sum(
        one.rows
        * max(0.0, min(one.ended_s, end_s) - max(one.started_s, start_s))
        / (one.ended_s - one.started_s)
        for one in exchanges
        if one.ended_s > one.started_s
    )


def measure_rows_s(
    address: str, requests: Sequence[InferRequest], clients: int, seconds: float
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
    load = _Load(address, requests)
    threads = [threading.Thread(target=load.ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        load.wait_warm(clients)
        start_s = time.monotonic()
        load.failed.wait(seconds)
        end_s = time.monotonic()
    finally:
        load.stopped.set()
        for thread in threads:
            thread.join()
    if load.failure:
        raise MeasurementError(load.failure)
    return rows_within(load.exchanges, start_s, end_s) / (end_s - start_s)


class _Load:
    """What the clients share."""

    def __init__(self, address: str, requests: Sequence[InferRequest]) -> None:
        self.exchanges: list[Exchange] = []
        self.failure = ""
        self.failed, self.stopped = threading.Event(), threading.Event()
        self._warm = threading.Semaphore(0)
        self._address, self._requests = address, requests

    def wait_warm(self, clients: int) -> None:
        """Wait until every client has had an answer, or one has failed."""
        for _ in range(clients):
            self._warm.acquire()

    def ask(self, number: int) -> None:
        """Be one client, until told to stop."""
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            for count, request in enumerate(self._turns(number)):
                started_s = time.monotonic()
                connection.request("POST", request.path, request.body, request.headers)
                response = connection.getresponse()
                rows = _answered_rows(response, response.read(), request)
                self.exchanges.append(Exchange(started_s, time.monotonic(), rows))
                if response.status in _BUSY:
                    self.stopped.wait(_PAUSE_S)
                if count == 0:
                    self._warm.release()
        except (OSError, http.client.HTTPException, MeasurementError) as error:
            self.failure = str(error) or type(error).__name__
            self.stopped.set()
            self.failed.set()
        finally:
            self._warm.release()  # who waits for this client need not any more
            connection.close()

    def _turns(self, number: int) -> Iterator[InferRequest]:
        while not self.stopped.is_set():
            yield self._requests[number % len(self._requests)]
            number += 1


def _answered_rows(response: http.client.HTTPResponse, body: bytes, request: InferRequest) -> int:
    if response.status in _BUSY:
        return 0
    checked(response, body)
    header = json.loads(body[: int(response.getheader(HEADER_LENGTH, str(len(body))))])
    return 0 if header["parameters"]["degraded"] else request.rows
