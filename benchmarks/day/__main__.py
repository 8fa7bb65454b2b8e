"""A day of changing traffic: ``python -m benchmarks.day``.

Prints, by hour, the rows per second that could be served by the best fixed allocation and by the
one that follows the traffic (`simulated`), as a table; and the controller's changes on stderr.
"""

from __future__ import annotations

import sys
from statistics import fmean

from benchmarks.day.simulated import Hour, play_day
from benchmarks.day.trace import ENSEMBLES, read_trace
from benchmarks.table import markdown


def main() -> None:
    """Play the day and print what came of it."""
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


def _row(name: str, hour: Hour) -> list[str]:
    rates = (hour.first_rows_s, hour.fixed_rows_s, hour.followed_rows_s)
    texts = [f"{rows_s:,.0f}" for rows_s in rates]
    shares = [f"{hour.mix[ensemble]:.0%}" for ensemble in ENSEMBLES]
    return [name, *shares, *texts, f"{hour.followed_rows_s / hour.fixed_rows_s:.2f}"]


if __name__ == "__main__":
    main()
