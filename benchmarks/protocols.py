"""One small ensemble over every protocol, and our client: ``python -m benchmarks.protocols``.

Every round has wrk over HTTP (binary tensors, then JSON) and h2load over gRPC with 32 requests in
flight, there beside an echo of raw bytes, then wrk and the Python client with one, so that ratios
are of things measured next to each other. One row per request; needs wrk and h2load.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time

import msgspec
from ensembled_client import EnsembleClient
from ensembled_client.wire.messages import message_class

from benchmarks.command import parse_measurement
from benchmarks.errors import BenchmarkError
from benchmarks.figures import ProtocolFigures, Spread, WayFigures
from benchmarks.grpc_echo import running_echo
from benchmarks.h2load import H2loadResult, find_h2load, run_h2load
from benchmarks.infer_request import (
    EncodedRequest,
    ask,
    binary_request,
    check_answer,
    json_request,
    model_input,
)
from benchmarks.limit import errors_as_lines
from benchmarks.members import expected_answer, random_input
from benchmarks.server_process import RunningServer, running_server
from benchmarks.serving import CASES
from benchmarks.wrk import find_wrk, run_wrk
from server.config import load_config
from workers.backends.base import Array

__all__ = ["main", "measure_protocols"]

_CASE = CASES["small"]
_CONNECTIONS, _IN_FLIGHT = 8, 4
_WARM_UP_S = 1
_GRPC, _ECHO = "gRPC, 32 in flight", "gRPC echo of raw bytes, 32 in flight"


def measure_protocols(rounds: int, seconds: int) -> ProtocolFigures:
    """Measure every protocol.

    Args:
        rounds: how often everything is measured.
        seconds: of each measurement.

    Raises:
        BenchmarkError: if the server fails, or an answer is wrong.
    """
    find_wrk()
    find_h2load()
    config = load_config(_CASE.config)
    with running_server(_CASE.config) as server, running_echo() as echo:
        tensor = model_input(server.address, _CASE.ensemble)
        row = random_input(tensor, 1, 0)
        expected = expected_answer(config, _CASE.ensemble, row)
        makers = (binary_request, json_request)
        requests = [make(_CASE.ensemble, tensor.name, row) for make in makers]
        for request in requests:
            check_answer(ask(server.address, request), expected)
        _check_grpc(server, row, expected)
        measure = _Measure(
            server=server,
            echo=echo,
            requests=requests,
            message=_message(tensor.name, row),
            name=tensor.name,
            row=row,
        )
        measure.all(_WARM_UP_S)
        measured = [measure.all(seconds) for _ in range(rounds)]
    ways = [
        WayFigures(
            name=name,
            in_flight=1 if name.endswith("alone") else _CONNECTIONS * _IN_FLIGHT,
            requests_per_s=Spread.of([one[name][0] for one in measured]),
            p50_ms=Spread.of([one[name][1] for one in measured]),
        )
        for name in measured[0]
    ]
    of_echo = Spread.of([one[_GRPC][0] / one[_ECHO][0] for one in measured])
    return ProtocolFigures(tuple(ways), of_echo)


class _Measure:
    """What one round measures: by name, requests/s and p50 in ms (0 where it is not told)."""

    def __init__(
        self,
        *,
        server: RunningServer,
        echo: str,
        requests: list[EncodedRequest],
        message: bytes,
        name: str,
        row: Array,
    ) -> None:
        self._server = server
        self._echo = echo
        self._binary, self._json = requests
        self._message = message
        self._input = {name: row}

    def all(self, seconds: int) -> dict[str, tuple[float, float]]:
        """Measure everything once."""
        address = self._server.address
        both = _CONNECTIONS * _IN_FLIGHT
        measured = {}
        for name, request, connections in (
            ("HTTP binary, 32 in flight", self._binary, both),
            ("HTTP JSON, 32 in flight", self._json, both),
            ("HTTP binary, wrk alone", self._binary, 1),
        ):
            result = run_wrk(address, request, connections, seconds)
            measured[name] = result.requests_per_s, result.p50_ms
        measured[_GRPC] = self._grpc(seconds), 0.0
        measured[_ECHO] = self._h2load(self._echo, seconds).requests_per_s, 0.0
        for scheme, at in (("http", address), ("grpc", self._server.grpc)):
            measured[f"Python client, {scheme}, alone"] = self._client(f"{scheme}://{at}", seconds)
        return measured

    def _grpc(self, seconds: int) -> float:
        before = _successes(self._server.address)
        result = self._h2load(self._server.grpc, seconds)
        answered = _successes(self._server.address) - before
        if answered < result.requests:
            raise BenchmarkError(f"{result.requests} calls ended, but {answered} were answered")
        return result.requests_per_s

    def _h2load(self, address: str, seconds: int) -> H2loadResult:
        return run_h2load(
            address,
            self._message,
            connections=_CONNECTIONS,
            in_flight=_IN_FLIGHT,
            seconds=seconds,
        )

    def _client(self, url: str, seconds: int) -> tuple[float, float]:
        times: list[float] = []
        with EnsembleClient(url) as client:
            client.predict(_CASE.ensemble, self._input)
            deadline = time.perf_counter() + seconds
            while (started := time.perf_counter()) < deadline:
                client.predict(_CASE.ensemble, self._input)
                times.append(time.perf_counter() - started)
        return len(times) / sum(times), statistics.median(times) * 1e3


def _message(name: str, row: Array) -> bytes:
    request = message_class("ModelInferRequest")(model_name=_CASE.ensemble)
    request.inputs.add(name=name, datatype="FP32", shape=row.shape)
    request.raw_input_contents.append(row.tobytes())
    return bytes(request.SerializeToString())


def _check_grpc(server: RunningServer, row: Array, expected: Array) -> None:
    with EnsembleClient(f"grpc://{server.grpc}") as client:
        check_answer(client.predict(_CASE.ensemble, row).values, expected)


def _successes(address: str) -> int:
    connection = http.client.HTTPConnection(address)
    connection.request("GET", f"/v2/models/{_CASE.ensemble}/stats")
    (document,) = json.loads(connection.getresponse().read())["model_stats"]
    connection.close()
    return int(document["inference_stats"]["success"]["count"])


def main() -> None:
    """Measure and print."""
    from benchmarks.table import protocol_table  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m benchmarks.protocols", description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parse_measurement(parser)
    with errors_as_lines():
        figures = measure_protocols(options.rounds, options.seconds)
    print(msgspec.json.encode(figures).decode() if options.json else protocol_table(figures))


if __name__ == "__main__":
    main()
