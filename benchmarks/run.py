"""The whole suite: ``python -m benchmarks.run [--quick] [--only NAME]... [--rounds N]``.

Writes ``benchmarks/results/NAME.json`` and a page with all tables, and prints that page. It needs
the load generators wrk and h2load, and several minutes of an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.limit import errors_as_lines
from benchmarks.overhead import measure_overhead
from benchmarks.protocols import measure_protocols
from benchmarks.results_file import Result, make_result, page, read_results, write_result
from benchmarks.serving import CASES, measure_serving
from benchmarks.validation import measure_validation
from benchmarks.wrk import find_wrk

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent
_OVERHEAD, _PROTOCOLS, _VALIDATION = "overhead", "protocols", "validation"
_ROUNDS, _SECONDS = 7, 5


def _measure(name: str, rounds: int, seconds: int) -> Result:
    if name == _OVERHEAD:
        overhead = measure_overhead(rounds, seconds)
        config = "fakes, made by benchmarks/overhead.py"
        return make_result(name, overhead, config=config, rounds=rounds, seconds=seconds)
    if name == _PROTOCOLS:
        protocols = measure_protocols(rounds, seconds)
        config = str(CASES["small"].config.relative_to(_HERE.parent))
        return make_result(name, protocols, config=config, rounds=rounds, seconds=seconds)
    if name == _VALIDATION:
        validation = measure_validation(rounds, seconds)
        config = "see benchmarks/validation.py"
        return make_result(name, validation, config=config, rounds=rounds, seconds=seconds)
    case = CASES[name]
    serving = measure_serving(case, rounds, seconds)
    config = str(case.config.relative_to(_HERE.parent))
    return make_result(name, serving, config=config, rounds=rounds, seconds=seconds)


def main() -> None:
    """Run the suite."""
    names = [*CASES, _OVERHEAD, _PROTOCOLS, _VALIDATION]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of a second: a try")
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--rounds", type=int, help=f"default {_ROUNDS}")
    parser.add_argument("--seconds", type=int, help=f"of each measurement, default {_SECONDS}")
    parser.add_argument("--output", type=Path, default=_HERE / "results", metavar="DIRECTORY")
    options = parser.parse_args()
    rounds = (1 if options.quick else _ROUNDS) if options.rounds is None else options.rounds
    seconds = (1 if options.quick else _SECONDS) if options.seconds is None else options.seconds
    if min(rounds, seconds) < 1:
        sys.exit("error: --rounds and --seconds are 1 or more")
    with errors_as_lines():
        find_wrk()
        for name in options.only or names:
            print(f"{name}: {rounds} rounds of {seconds} s ...", file=sys.stderr, flush=True)
            write_result(options.output, _measure(name, rounds, seconds))
    print(page(read_results(options.output)), end="")


if __name__ == "__main__":
    main()
