"""The command: ``python -m benchmarks.chaos [--seed N] [--faults N | --kills N | --changes N]``.

Exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

import msgspec

from benchmarks.chaos.campaign import Happened, Plan
from benchmarks.chaos.faults import KILLS, KINDS
from benchmarks.chaos.runner import Report, run_campaign
from benchmarks.chaos.scene import mixed, steady
from benchmarks.chaos.table import line_of, text_of
from benchmarks.limit import errors_as_lines

_KILLS_BACK_S = 2.0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeats a campaign; drawn if absent")
    parser.add_argument("--faults", type=int, default=200, help="how many, of all kinds")
    parser.add_argument(
        "--kills",
        type=int,
        default=0,
        help="instead: so many deaths of workers and the combiner under a steady load, "
        f"with full throughput within {_KILLS_BACK_S:g} s of each",
    )
    parser.add_argument(
        "--changes",
        type=int,
        default=0,
        help="instead: so many changes of what is served, one right after another",
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="only these faults")
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--log", type=Path, help="keep the server's log there")
    options = parser.parse_args()
    if options.faults < 1 or min(options.kills, options.changes) < 0:
        parser.error("--faults is 1 or more, --kills and --changes 0 or more")
    return options


def _run(options: argparse.Namespace) -> Report:
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    kinds = tuple(options.kinds or KINDS)
    plan, scene = Plan(seed, options.faults, kinds), mixed()
    if options.kills:
        kinds = tuple(options.kinds or KILLS)
        plan = Plan(
            seed, options.kills, kinds, clients=24, pause_s=0.0, rate_within_s=_KILLS_BACK_S
        )
        scene = steady()
    elif options.changes:
        plan = Plan(seed, options.changes, ("reload",), clients=6, quiet_s=0.0, every=250)
    print(f"seed {seed}: {plan.faults} faults", flush=True)
    number = 0

    def tell(happened: Happened) -> None:
        nonlocal number
        number += 1
        print(line_of(number, happened), flush=True)

    return run_campaign(plan, scene, log_file=options.log, on_fault=tell)


def main() -> None:
    """Run a campaign and print what came of it."""
    options = _parse()
    with errors_as_lines():
        report = _run(options)
    print(text_of(report))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    sys.exit(0 if report.is_clean else 1)


if __name__ == "__main__":
    main()
