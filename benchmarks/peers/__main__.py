"""Other servers with the same members beside ours: ``python -m benchmarks.peers [--only CASE]``.

Each peer lives in a virtual environment of its own, made when it is first needed. Every round
measures every server, and the members without a server, in an order that changes from round to
round. Writes ``peers.json`` beside the other results and their page anew, and prints a table.
Needs wrk, and an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path

from benchmarks.command import parse_measurement
from benchmarks.figures import PeerFigures
from benchmarks.limit import errors_as_lines
from benchmarks.peers.measure import LIMIT, OURS, Plan, measure_case
from benchmarks.peers.registry import PEERS
from benchmarks.peers.table import peer_table
from benchmarks.results_file import make_result, write_result
from benchmarks.serving import CASES, Case
from benchmarks.wrk import find_wrk

__all__ = ["main"]

_RESULTS = Path(__file__).resolve().parent.parent / "results"
_CONNECTIONS = {"small": (1, 32, 128), "heavy": (1, 16)}
_ROUNDS, _SECONDS = 7, 2
_BUSY_LOAD = 1.0


def _cases(only: str | None) -> dict[str, Case]:
    return {
        name: dataclasses.replace(CASES[name], connections=connections)
        for name, connections in _CONNECTIONS.items()
        if only in (None, name)
    }


def _plan(options: argparse.Namespace) -> Plan:
    names = [name for name in options.peers.split(",") if name]
    known = [OURS, LIMIT, *PEERS]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"error: --peers: {', '.join(unknown)}: use some of {','.join(known)}")
    return Plan(
        peers=tuple(peer for name, peer in PEERS.items() if name in names),
        rounds=options.rounds,
        seconds=options.seconds,
        with_ours=OURS in names,
        with_limit=LIMIT in names,
        with_cost=options.cost,
        checkouts=tuple(options.ours),
    )


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", choices=_CONNECTIONS)
    everybody = ",".join([OURS, *PEERS, LIMIT])
    parser.add_argument("--peers", default=everybody, metavar="NAME,...", help="%(default)s")
    parser.add_argument(
        "--ours",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKOUT",
        help="measure the server of another copy of this project, too; may be repeated",
    )
    parser.add_argument("--cost", action="store_true", help="tell CPU time and switches by process")
    parser.add_argument("--output", type=Path, default=_RESULTS, metavar="DIRECTORY")
    options = parse_measurement(parser, seconds=_SECONDS, rounds=_ROUNDS)
    plan = _plan(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # servers are stopped
    if (load := os.getloadavg()[0]) > _BUSY_LOAD:
        text = (
            f"the machine is busy (load {load:.1f}): CPU per request (--cost) holds, rates do not"
        )
        print(text, file=sys.stderr, flush=True)
    with errors_as_lines():
        find_wrk()
        cases = [measure_case(name, case, plan) for name, case in _cases(options.only).items()]
    figures = PeerFigures(tuple(cases))
    files = ", ".join(
        str(case.config.relative_to(_RESULTS.parent.parent))
        for case in _cases(options.only).values()
    )
    result = make_result("peers", figures, config=files, rounds=plan.rounds, seconds=plan.seconds)
    write_result(options.output, result)
    print(peer_table(figures))


if __name__ == "__main__":
    main()
