"""Real ensembles served, beside their limit: ``python -m benchmarks.serving small|heavy``.

Every round measures the limit and then the server at each number of connections, one row per
request, so that every ratio is of things measured next to each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.command import parse_measurement
from benchmarks.figures import LoadFigures, ServingFigures, Spread
from benchmarks.infer_request import (
    EncodedRequest,
    ask,
    binary_request,
    check_answer,
    model_input,
)
from benchmarks.limit import Limit, LimitRound, LimitRounds, errors_as_lines
from benchmarks.members import expected_answer, random_input
from benchmarks.server_process import RunningServer, running_server
from benchmarks.wrk import WrkResult, find_wrk, run_wrk
from server.config import Config, load_config
from server.members.sources import model_sources

__all__ = ["CASES", "Case", "Round", "load_figures", "main", "measure_serving"]

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
        by_hand: the same ensemble, placed by hand, to be measured beside it.
        with_split: whether the limit has a row spread over the cores, too.
    """

    config: Path
    ensemble: str
    connections: tuple[int, ...]
    by_hand: Path | None = None
    with_split: bool = False


#: By their names on the command line.
CASES = {
    "small": Case(_HERE / "small.yaml", "mlps", (1, 32, 128)),
    "heavy": Case(
        _HERE / "heavy.yaml", "efficientnets", (1, 4, 16), _HERE / "heavy_by_hand.yaml", True
    ),
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
    with ExitStack() as stack:
        limit = stack.enter_context(Limit(model_sources(config)))
        server = stack.enter_context(running_server(case.config))
        idle_memory = server.memory()
        request, row_bytes = _checked_request(config, case.ensemble, server)
        by_hand = (
            None if case.by_hand is None else stack.enter_context(running_server(case.by_hand))
        )
        limit_rounds = LimitRounds(limit, seconds, with_split=case.with_split)
        for connections in case.connections:
            run_wrk(server.address, request, connections, _WARM_UP_S)
            if by_hand is not None:
                run_wrk(by_hand.address, request, connections, _WARM_UP_S)
        servers = [server] if by_hand is None else [server, by_hand]
        measured = []
        for _ in range(rounds):
            limits = limit_rounds.measure()
            results = [
                [run_wrk(one.address, request, n, seconds) for one in servers]
                for n in case.connections
            ]
            measured.append([Round(limits, *both) for both in results])
    return ServingFigures(
        ensemble=case.ensemble,
        row_bytes=row_bytes,
        limit=limit_rounds.figures(),
        loads=tuple(
            load_figures(n, [one[i] for one in measured]) for i, n in enumerate(case.connections)
        ),
        idle_memory=idle_memory,
    )


@dataclass(frozen=True)
class Round:
    """One round at one number of connections.

    Attributes:
        limit: what the members did without it.
        server: what the server did.
        by_hand: what it did with a placement made by hand, if there is one.
    """

    limit: LimitRound
    server: WrkResult
    by_hand: WrkResult | None = None


def _checked_request(
    config: Config, ensemble: str, server: RunningServer
) -> tuple[EncodedRequest, int]:
    """Return the request to measure, and its row's bytes; its answer has been found right."""
    tensor = model_input(server.address, ensemble)
    row = random_input(tensor, 1, _SEED)
    request = binary_request(ensemble, tensor.name, row)
    check_answer(ask(server.address, request), expected_answer(config, ensemble, row))
    return request, row.nbytes


def load_figures(connections: int, rounds: Sequence[Round]) -> LoadFigures:
    """Summarise the rounds at one number of connections."""
    rates = [one.server.requests_per_s for one in rounds]
    by_hand = [
        one.server.requests_per_s / one.by_hand.requests_per_s for one in rounds if one.by_hand
    ]
    return LoadFigures(
        connections=connections,
        rows_per_s=Spread.of(rates),
        p50_ms=Spread.of([one.server.p50_ms for one in rounds]),
        p99_ms=Spread.of([one.server.p99_ms for one in rounds]),
        of_limit=Spread.of([one.server.requests_per_s / one.limit.rows_per_s for one in rounds]),
        p50_of_slowest=Spread.of([one.server.p50_ms / one.limit.slowest_ms for one in rounds]),
        p50_of_in_turn=Spread.of([one.server.p50_ms / one.limit.in_turn_ms for one in rounds]),
        of_by_hand=Spread.of(by_hand) if by_hand else None,
    )


def main() -> None:
    """Measure one case and print its figures."""
    from benchmarks.table import serving_table  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--json", action="store_true")
    options = parse_measurement(parser, seconds=5)
    with errors_as_lines():
        figures = measure_serving(CASES[options.case], options.rounds, options.seconds)
    print(msgspec.json.encode(figures).decode() if options.json else serving_table(figures))


if __name__ == "__main__":
    main()
