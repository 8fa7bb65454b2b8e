"""The price of the path, with members that cost nothing: ``python -m benchmarks.overhead``.

Per payload and protocol: a request's latency at one connection, beside one copy of the payload
in memory, and its CPU time in the front-end. Per number of members: the CPU time of a request in
all processes of the server.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import yaml

from benchmarks.command import parse_measurement
from benchmarks.figures import MemberCost, OverheadFigures, PayloadFigures, Spread
from benchmarks.infer_request import EncodedRequest, ask, binary_request, check_answer, json_request
from benchmarks.limit import errors_as_lines
from benchmarks.members import random_input
from benchmarks.process_cost import ProcessCost, costs_per_request, total
from benchmarks.server_process import RunningServer, running_server
from benchmarks.wrk import WrkResult, find_wrk, run_wrk
from workers.backends.base import Array
from workers.runtime.spec import TensorSpec

__all__ = [
    "MEMBERS",
    "PAYLOADS",
    "fake_config",
    "main",
    "measure_overhead",
    "member_costs",
    "memcpy_s",
]

#: The shapes of one FP32 row: 1 KB, 600 KB (an image of 224 x 224) and 10 MB.
PAYLOADS = ((256,), (3, 224, 224), (2560, 1024))
#: Sizes of the ensembles whose cost per request is compared, the smallest first.
MEMBERS = (1, 6, 12)

_PAYLOAD_MEMBERS = 3
_CONNECTIONS = 32
_OUTPUTS = 10
_SEED = 0
_WARM_UP_S = 1
_LARGE_BYTES = 1 << 20
_COPIES = 15
_ENSEMBLE = "fakes"
_INPUT = "x"

_PROTOCOLS: dict[str, Callable[[str, str, Array], EncodedRequest]] = {
    "HTTP binary": binary_request,
    "HTTP JSON": json_request,
}


def fake_config(members: int, shape: tuple[int, ...]) -> str:
    """Return the YAML of an ensemble of fake members that take one FP32 tensor.

    Args:
        members: how many.
        shape: of the input's row.
    """
    names = [f"fake_{i}" for i in range(members)]
    member: dict[str, object] = {
        "model": "fake",
        "fake": {"inputs": {_INPUT: list(shape)}, "outputs": _OUTPUTS},
    }
    if 4 * np.prod(shape) > _LARGE_BYTES:
        member["batch_size"] = 2  # bigger batches would need a bigger arena
    return yaml.safe_dump(
        {
            "ensembles": {_ENSEMBLE: {"members": names, "rule": "mean"}},
            "members": {name: dict(member) for name in names},
            "server": {"arena_bytes": "256MiB", "max_request_bytes": "256MiB"},
        },
        sort_keys=False,
    )


def measure_overhead(rounds: int, seconds: int) -> OverheadFigures:
    """Measure the price of the path.

    Args:
        rounds: how often everything is measured.
        seconds: of each measurement.

    Raises:
        BenchmarkError: if the server fails, or its answer is wrong.
    """
    find_wrk()
    payloads = [
        figures for shape in PAYLOADS for figures in _measure_payload(shape, rounds, seconds)
    ]
    return OverheadFigures(tuple(payloads), _measure_members(rounds, seconds))


@contextlib.contextmanager
def _fakes(members: int, shape: tuple[int, ...]) -> Iterator[RunningServer]:
    with tempfile.TemporaryDirectory(prefix="overhead-") as directory:
        config = Path(directory, "fakes.yaml")
        config.write_text(fake_config(members, shape), encoding="utf-8")
        with running_server(config) as server:
            yield server


def _row(shape: tuple[int, ...]) -> Array:
    return random_input(TensorSpec(_INPUT, "FP32", shape), 1, _SEED)


class _Payload(NamedTuple):
    """One payload in one round."""

    copy_ms: float
    result: WrkResult
    front_end_us: float


def _front_end_us(costs: Iterable[ProcessCost]) -> float:
    return sum(cost.cpu_us for cost in costs if cost.role == "front-end")


def _run_wrk_costs(
    server: RunningServer, request: EncodedRequest, connections: int, seconds: int
) -> tuple[WrkResult, tuple[ProcessCost, ...]]:
    """Send a request again and again, and tell what each cost the server."""
    before = server.usage()
    result = run_wrk(server.address, request, connections, seconds)
    return result, costs_per_request(before, server.usage(), result.requests)


def _measure_payload(shape: tuple[int, ...], rounds: int, seconds: int) -> list[PayloadFigures]:
    row = _row(shape)
    requests = {name: make(_ENSEMBLE, _INPUT, row) for name, make in _PROTOCOLS.items()}
    measured: dict[str, list[_Payload]] = {name: [] for name in requests}
    with _fakes(_PAYLOAD_MEMBERS, shape) as server:
        for request in requests.values():
            check_answer(ask(server.address, request)[0], row.ravel()[:_OUTPUTS])
            run_wrk(server.address, request, 1, _WARM_UP_S)
        for _ in range(rounds):
            for name, request in requests.items():
                copy_ms = memcpy_s(row) * 1e3
                result, costs = _run_wrk_costs(server, request, 1, seconds)
                measured[name].append(_Payload(copy_ms, result, _front_end_us(costs)))
    return [
        PayloadFigures(
            payload_bytes=row.nbytes,
            body_bytes=len(requests[name].body),
            protocol=name,
            memcpy_ms=Spread.of([one.copy_ms for one in results]),
            p50_ms=Spread.of([one.result.p50_ms for one in results]),
            p99_ms=Spread.of([one.result.p99_ms for one in results]),
            more_than_memcpy_ms=Spread.of([one.result.p50_ms - one.copy_ms for one in results]),
            front_end_cpu_us=Spread.of([one.front_end_us for one in results]),
        )
        for name, results in measured.items()
    ]


def memcpy_s(array: Array) -> float:
    """Time one copy of an array into memory that has been used before: the median, in seconds."""
    target = np.empty_like(array)
    spent = []
    for _ in range(_COPIES):
        started = time.perf_counter()
        np.copyto(target, array)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def _measure_members(rounds: int, seconds: int) -> tuple[MemberCost, ...]:
    """Measure all ensembles side by side: those not being measured are idle."""
    shape = PAYLOADS[0]
    request = binary_request(_ENSEMBLE, _INPUT, _row(shape))
    measured: dict[int, list[tuple[float, float]]] = {members: [] for members in MEMBERS}
    with contextlib.ExitStack() as stack:
        servers = {members: stack.enter_context(_fakes(members, shape)) for members in MEMBERS}
        for server in servers.values():
            run_wrk(server.address, request, _CONNECTIONS, _WARM_UP_S)
        for _ in range(rounds):
            for members, server in servers.items():
                result, costs = _run_wrk_costs(server, request, _CONNECTIONS, seconds)
                measured[members].append((result.requests_per_s, total(costs).cpu_us))
    return member_costs(measured)


def member_costs(measured: dict[int, list[tuple[float, float]]]) -> tuple[MemberCost, ...]:
    """Summarise the rounds, and what a member more costs in each of them.

    Args:
        measured: by the number of members, the rounds' requests/s and CPU microseconds.
    """
    fewest = min(measured)
    costs = []
    for members, rounds in sorted(measured.items()):
        extra = None
        if members > fewest:
            pairs = zip(rounds, measured[fewest], strict=True)
            extra = Spread.of([(cpu - base) / (members - fewest) for (_, cpu), (_, base) in pairs])
        costs.append(
            MemberCost(
                members=members,
                connections=_CONNECTIONS,
                requests_per_s=Spread.of([rate for rate, _ in rounds]),
                cpu_us_per_request=Spread.of([cpu for _, cpu in rounds]),
                us_per_extra_member=extra,
            )
        )
    return tuple(costs)


def main() -> None:
    """Measure and print."""
    from benchmarks.table import overhead_table  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parse_measurement(parser)
    with errors_as_lines():
        figures = measure_overhead(options.rounds, options.seconds)
    print(msgspec.json.encode(figures).decode() if options.json else overhead_table(figures))


if __name__ == "__main__":
    main()
