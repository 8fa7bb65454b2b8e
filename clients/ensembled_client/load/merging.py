"""The tallies of several processes as one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ensembled_client.load.histogram import Durations, EncodedDurations
from ensembled_client.load.recorder import Tally, Window

__all__ = ["merge"]


def merge(tallies: Sequence[Tally]) -> Tally:
    """Return what all processes of a test have counted together; there is at least one."""
    ends = [tally.window.end_ns for tally in tallies if tally.window.end_ns is not None]
    return Tally(
        window=Window(min(tally.window.begin_ns for tally in tallies), max(ends)),
        sent=sum(tally.sent for tally in tallies),
        fine=sum(tally.fine for tally in tallies),
        errors=sum((tally.errors for tally in tallies), Counter()),
        abandoned=sum(tally.abandoned for tally in tallies),
        degraded=sum(tally.degraded for tally in tallies),
        waited=sum(tally.waited for tally in tallies),
        latency=_durations(tally.latency for tally in tallies),
        service=_durations(tally.service for tally in tallies),
        answers=sum(tally.answers for tally in tallies),
        rows=sum(tally.rows for tally in tallies),
        in_time=sum(tally.in_time for tally in tallies),
        series=_series(tallies),
        schedule_lag=_durations(tally.schedule_lag for tally in tallies),
        loop_lag=_durations(tally.loop_lag for tally in tallies),
        usages=tuple(usage for tally in tallies for usage in tally.usages),
        was_stopped=any(tally.was_stopped for tally in tallies),
    )


def _durations(parts: Iterable[EncodedDurations]) -> EncodedDurations:
    return Durations.merged(list(parts)).encode()


def _series(tallies: Sequence[Tally]) -> dict[int, tuple[int, int]]:
    together: dict[int, tuple[int, int]] = {}
    for tally in tallies:
        for number, (good, bad) in tally.series.items():
            before = together.get(number, (0, 0))
            together[number] = (before[0] + good, before[1] + bad)
    return dict(sorted(together.items()))
