"""What idle connections cost those that work: ``python -m benchmarks.idle [--connections N]``.

Members that cost nothing are served. In every round the rate of small binary requests is measured
twice, with and without thousands of keep-alive connections that have each asked once and then say
nothing, in an order that changes from round to round.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import select
import socket
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import yaml

from benchmarks.command import parse_measurement
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Spread
from benchmarks.infer_request import EncodedRequest, ask, binary_request, model_input
from benchmarks.limit import errors_as_lines
from benchmarks.members import random_input
from benchmarks.overhead import fake_config
from benchmarks.server_process import RunningServer, running_server
from benchmarks.table import markdown, spread
from benchmarks.wrk import find_wrk, run_wrk

__all__ = ["IdleFigures", "holding", "idle_figures", "idle_table", "main", "measure_idle"]

_ENSEMBLE = "fakes"
_MEMBERS, _SHAPE = 3, (256,)
_BUSY_CONNECTIONS = 32
_SEED = 0
_WARM_UP_S = 1
_TIMEOUT_S = 30.0
_AT_ONCE = 200
_SPARE = 1000
#: Connections come from so many addresses of the loopback, so that there are ports enough.
_SOURCES = 16
_RESET = struct.pack("ii", 1, 0)


class IdleFigures(msgspec.Struct, frozen=True):
    """What idle connections cost.

    Attributes:
        idle_connections: so many.
        busy_connections: of the load generator, with a request in flight each.
        requests_per_s: without the idle ones.
        requests_per_s_with_idle: with them.
        ratio: of the second to the first, in each round.
        front_end_mib: resident memory before they came.
        front_end_mib_with_idle: the most while they were there.
    """

    idle_connections: int
    busy_connections: int
    requests_per_s: Spread
    requests_per_s_with_idle: Spread
    ratio: Spread
    front_end_mib: float
    front_end_mib_with_idle: float


def measure_idle(connections: int, rounds: int, seconds: int) -> IdleFigures:
    """Measure the rate with and without idle connections.

    Args:
        connections: that are idle; each needs a descriptor here and in the server.
        rounds: how often both are measured.
        seconds: of each measurement.

    Raises:
        BenchmarkError: if the server fails or closes a connection, or descriptors are too few.
    """
    find_wrk()
    _allow_descriptors(connections + _SPARE)
    document = yaml.safe_load(fake_config(_MEMBERS, _SHAPE))
    document["server"]["limits"] = {"connections": connections + _SPARE, "idle_s": 600}
    with_them: list[float] = []
    without: list[float] = []
    memory: list[float] = []
    with tempfile.TemporaryDirectory(prefix="idle-") as directory:
        config = Path(directory, "fakes.yaml")
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        with running_server(config) as server:
            request = _request(server)
            run_wrk(server.address, request, _BUSY_CONNECTIONS, _WARM_UP_S)
            before = _front_end_mib(server)
            for number in range(rounds):
                for crowded in (True, False) if number % 2 else (False, True):
                    with holding(server.address, request, connections if crowded else 0):
                        rate = run_wrk(server.address, request, _BUSY_CONNECTIONS, seconds)
                        (with_them if crowded else without).append(rate.requests_per_s)
                        if crowded:
                            memory.append(_front_end_mib(server))
    return idle_figures(connections, with_them, without, before, memory)


def idle_figures(
    connections: int,
    with_them: Sequence[float],
    without: Sequence[float],
    before_mib: float,
    with_mib: Sequence[float],
) -> IdleFigures:
    """Summarise the rounds.

    Args:
        connections: that were idle.
        with_them: requests/s of each round while they were there.
        without: the same without them.
        before_mib: the front-end's resident memory before they came.
        with_mib: of each round, while they were there.
    """
    return IdleFigures(
        idle_connections=connections,
        busy_connections=_BUSY_CONNECTIONS,
        requests_per_s=Spread.of(without),
        requests_per_s_with_idle=Spread.of(with_them),
        ratio=Spread.of([some / none for some, none in zip(with_them, without, strict=True)]),
        front_end_mib=before_mib,
        front_end_mib_with_idle=max(with_mib),
    )


def idle_table(figures: IdleFigures) -> str:
    """Return the figures as a table."""
    more_kib = (figures.front_end_mib_with_idle - figures.front_end_mib) * 1024
    return markdown(
        ("idle connections", "requests/s", "of those without", "front-end MiB", "KiB each"),
        [
            ("0", spread(figures.requests_per_s), "", f"{figures.front_end_mib:.0f}", ""),
            (
                f"{figures.idle_connections:,}",
                spread(figures.requests_per_s_with_idle),
                spread(figures.ratio),
                f"{figures.front_end_mib_with_idle:.0f}",
                f"{more_kib / figures.idle_connections:.1f}",
            ),
        ],
    )


@contextlib.contextmanager
def holding(address: str, request: EncodedRequest, count: int) -> Iterator[None]:
    """Hold connections that have asked once, for the length of a block.

    Args:
        address: ``HOST:PORT`` on the loopback.
        request: what each asks.
        count: how many.

    Raises:
        BenchmarkError: if one gets no answer, or is closed before the end of the block.
    """
    held: list[socket.socket] = []
    content = _as_bytes(address, request)
    try:
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, count))
            fresh = [_connect(address, number) for number in numbers]
            held += fresh
            for connection in fresh:
                connection.sendall(content)
            for connection in fresh:
                _read_answer(connection)
        yield
        closed = _readable(held)
        if closed:
            raise BenchmarkError(f"the server has closed {closed} of {count} idle connections")
    finally:
        for connection in held:
            # No port is left to wait for its last packets.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()


def _connect(address: str, number: int) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.socket()
    connection.settimeout(_TIMEOUT_S)
    connection.bind((f"127.0.0.{2 + number % _SOURCES}", 0))
    connection.connect((host, int(port)))
    return connection


def _as_bytes(address: str, request: EncodedRequest) -> bytes:
    headers = {"Host": address, "Content-Length": str(len(request.body)), **request.headers}
    lines = [f"POST {request.path} HTTP/1.1", *(f"{key}: {headers[key]}" for key in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + request.body


def _read_answer(connection: socket.socket) -> None:
    answer = connection.recv(1 << 16)  # small: it comes in one piece
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise BenchmarkError(f"a connection that shall be idle got {answer[:100]!r}")


def _readable(connections: Sequence[socket.socket]) -> int:
    """How many connections have something to read, which is their end."""
    polled = select.poll()
    for connection in connections:
        polled.register(connection, select.POLLIN)
    return len(polled.poll(0))


def _request(server: RunningServer) -> EncodedRequest:
    tensor = model_input(server.address, _ENSEMBLE)
    request = binary_request(_ENSEMBLE, tensor.name, random_input(tensor, 1, _SEED))
    ask(server.address, request)
    return request


def _front_end_mib(server: RunningServer) -> float:
    return next(one.rss_mib for one in server.memory() if "front-end" in one.name)


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchmarkError(f"{count} descriptors are needed, {hard} are allowed: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, help="that are idle")
    parser.add_argument("--json", action="store_true")
    options = parse_measurement(parser, seconds=5)
    with errors_as_lines():
        figures = measure_idle(options.connections, options.rounds, options.seconds)
    print(msgspec.json.encode(figures).decode() if options.json else idle_table(figures))


if __name__ == "__main__":
    main()
