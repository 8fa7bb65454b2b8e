"""A day of changing traffic: ``python -m benchmarks.day [--served [--seconds N]]``.

Prints, by hour, the rows per second that could be served by the best fixed allocation and by the
one that follows the traffic (`simulated`), as a table; and the controller's changes on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import fmean

from benchmarks.day.served import Phase, serve_day
from benchmarks.day.simulated import Hour, play_day
from benchmarks.day.trace import ENSEMBLES, read_trace
from benchmarks.table import markdown


def main() -> None:
    """Play or serve the day, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--served", action="store_true", help="serve a short day instead")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each phase of that")
    options = parser.parse_args()
    if options.served:
        print(_served_table(serve_day(options.seconds)))
    else:
        _play()


def _play() -> None:
    hours, changes = play_day(read_trace())
    for change in changes:
        clock = f"{int(change.at_s // 3600):02}:{int(change.at_s % 3600 // 60):02}"
        print(f"{clock} cost {change.cost_s:.0f} s: {change.reason}", file=sys.stderr)
    rows = [_row(str(number), hour) for number, hour in enumerate(hours)]
    whole = Hour(
        {name: fmean(hour.mix[name] for hour in hours) for name in ENSEMBLES},
        fmean(hour.first_rows_s for hour in hours),
        fmean(hour.fixed_rows_s for hour in hours),
        fmean(hour.followed_rows_s for hour in hours),
    )
    header = ["hour", *ENSEMBLES, "first", "fixed", "followed", "ratio"]
    print(markdown(header, [*rows, _row("all", whole)]))
    print(f"{len(changes)} changes, {sum(change.cost_s for change in changes):.0f} s lost by them")


def _served_table(phases: Sequence[Phase]) -> str:
    fixed = fmean(phase.fixed_rows_s for phase in phases)
    followed = fmean(phase.followed_rows_s for phase in phases)
    rows = [
        (" : ".join(map(str, phase.mix)), phase.fixed_rows_s, phase.followed_rows_s)
        for phase in phases
    ]
    return markdown(
        ["mix", "fixed", "followed", "ratio"],
        [
            [name, f"{before:,.0f}", f"{after:,.0f}", f"{after / before:.2f}"]
            for name, before, after in [*rows, ("all", fixed, followed)]
        ],
    )


def _row(name: str, hour: Hour) -> list[str]:
    rates = (hour.first_rows_s, hour.fixed_rows_s, hour.followed_rows_s)
    texts = [f"{rows_s:,.0f}" for rows_s in rates]
    shares = [f"{hour.mix[ensemble]:.0%}" for ensemble in ENSEMBLES]
    return [name, *shares, *texts, f"{hour.followed_rows_s / hour.fixed_rows_s:.2f}"]


if __name__ == "__main__":
    main()
