"""Real ensembles served, beside their limit: ``python -m benchmarks.serving small|heavy``.

Every round measures the limit and then the server at each number of connections, one row per
request, so that every ratio is of things measured next to each other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.figures import LoadFigures, ServingFigures, Spread
from benchmarks.infer_request import (
    InferRequest,
    ask,
    binary_request,
    check_answer,
    model_input,
)
from benchmarks.limit import Limit, LimitRounds, errors_as_lines
from benchmarks.members import expected_answer, random_input
from benchmarks.server_process import RunningServer, running_server
from benchmarks.wrk import WrkResult, find_wrk, run_wrk
from server.config import Config, load_config
from server.members import model_sources

__all__ = ["CASES", "Case", "load_figures", "main", "measure_serving"]

_HERE = Path(__file__).resolve().parent
_SEED = 0
_WARM_UP_S = 1


@dataclass(frozen=True)
class Case:
    """A served ensemble to measure.

    Attributes:
        config: its configuration; its members have one input each.
        ensemble: its name.
        connections: of the load generator, in the order they are measured.
    """

    config: Path
    ensemble: str
    connections: tuple[int, ...]


#: By their names on the command line.
CASES = {
    "small": Case(_HERE / "small.yaml", "mlps", (1, 32, 128)),
    "heavy": Case(_HERE / "heavy.yaml", "efficientnets", (1, 16)),
}


def measure_serving(case: Case, rounds: int, seconds: int) -> ServingFigures:
    """Measure the server against the limit.

    Args:
        case: what is served.
        rounds: how often everything is measured.
        seconds: of each measurement.

    Raises:
        BenchmarkError: if the server fails, or its answer is wrong.
    """
    find_wrk()
    config = load_config(case.config)
    with (
        Limit(model_sources(config)) as limit,
        running_server(case.config) as server,
    ):
        idle_memory = server.memory()
        request, row_bytes = _checked_request(config, case.ensemble, server)
        limit_rounds = LimitRounds(limit, seconds)
        for connections in case.connections:
            run_wrk(server.address, request, connections, _WARM_UP_S)
        measured = [
            (
                limit_rounds.measure(),
                [run_wrk(server.address, request, n, seconds) for n in case.connections],
            )
            for _ in range(rounds)
        ]
    return ServingFigures(
        ensemble=case.ensemble,
        row_bytes=row_bytes,
        limit=limit_rounds.figures(),
        loads=tuple(
            load_figures(n, [(limits, results[i]) for limits, results in measured])
            for i, n in enumerate(case.connections)
        ),
        idle_memory=idle_memory,
    )


def _checked_request(
    config: Config, ensemble: str, server: RunningServer
) -> tuple[InferRequest, int]:
    """Return the request to measure, and its row's bytes; its answer has been found right."""
    tensor = model_input(server.address, ensemble)
    row = random_input(tensor, 1, _SEED)
    request = binary_request(ensemble, tensor.name, row)
    check_answer(ask(server.address, request), expected_answer(config, ensemble, row))
    return request, row.nbytes


def load_figures(
    connections: int, rounds: Sequence[tuple[tuple[float, float, float], WrkResult]]
) -> LoadFigures:
    """Summarise the rounds at one number of connections.

    Args:
        connections: how many.
        rounds: of each, the limit (rows/s, slowest member ms, all in turn ms) and the server.
    """
    return LoadFigures(
        connections=connections,
        rows_per_s=Spread.of([result.requests_per_s for _, result in rounds]),
        p50_ms=Spread.of([result.p50_ms for _, result in rounds]),
        p99_ms=Spread.of([result.p99_ms for _, result in rounds]),
        of_limit=Spread.of([result.requests_per_s / limit[0] for limit, result in rounds]),
        p50_of_slowest=Spread.of([result.p50_ms / limit[1] for limit, result in rounds]),
        p50_of_in_turn=Spread.of([result.p50_ms / limit[2] for limit, result in rounds]),
    )


def main() -> None:
    """Measure one case and print its figures."""
    from benchmarks.table import serving_table  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if min(options.rounds, options.seconds) < 1:
        sys.exit("error: --rounds and --seconds are 1 or more")
    with errors_as_lines():
        figures = measure_serving(CASES[options.case], options.rounds, options.seconds)
    print(msgspec.json.encode(figures).decode() if options.json else serving_table(figures))


if __name__ == "__main__":
    main()
