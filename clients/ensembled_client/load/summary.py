"""Figures for people and machines, out of what was counted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ensembled_client.load.histogram import Durations
from ensembled_client.load.recorder import SERIES_NS, Tally

__all__ = ["QUANTILES", "Summary", "Tester", "summarise"]

#: The quantiles that are told, by name.
QUANTILES: Mapping[str, float] = {
    "p50": 0.5,
    "p90": 0.9,
    "p99": 0.99,
    "p99.9": 0.999,
    "max": 1.0,
}
_SECOND_NS = 1_000_000_000
_BUSY = 0.9
_LAG_SHARE = 0.25
# Less lag than this concerns nobody: it is what the kernel's timers and the loop take.
_LAG_MS = 0.5


@dataclass(frozen=True)
class Tester:
    """How the tester itself fared.

    Attributes:
        busy_shares: of each process, how much of the time it had work to do, 0 to 1.
        cpu_s: CPU time of all its processes in the measurement, all threads.
        wait_s: how long their sending threads waited for a core.
        loop_lag_ms: how late its event loops were, by quantile.
        schedule_lag_ms: how late it was with requests that were due; None in a closed loop.
        waited: requests that were due while all connections were busy.
    """

    busy_shares: tuple[float, ...]
    cpu_s: float
    wait_s: float
    loop_lag_ms: Mapping[str, float]
    schedule_lag_ms: Mapping[str, float] | None
    waited: int


@dataclass(frozen=True)
class Summary:
    """The figures of one test.

    Attributes:
        load: connections of a closed loop, or requests per second of an open one (a trace's mean).
        is_open: whether it was an open loop.
        seconds: of the measurement.
        sent: requests whose intended start was in it.
        fine: of those, the ones with a good answer.
        errors: of those, the others by kind, the most frequent first.
        abandoned: of those, without an answer when the test was broken off.
        degraded: of the good answers.
        requests_per_s: good answers that arrived in the measurement.
        rows_per_s: rows of those.
        deadline_ms: what answers should keep to; None for none.
        good_per_s: good answers within the deadline; None without one.
        latency_ms: by quantile, with `mean` and `min`; from the intended start if `is_open`.
        service_ms: the same from the actual sending; None in a closed loop, where they are one.
        latency: the histogram behind it.
        series: (seconds since the begin, good answers, errors), `SERIES_NS` wide.
        tester: how the tester fared.
        warnings: why these figures should be doubted.
        was_stopped: whether the test was broken off.
    """

    load: float
    is_open: bool
    seconds: float
    sent: int
    fine: int
    errors: Mapping[str, int]
    abandoned: int
    degraded: int
    requests_per_s: float
    rows_per_s: float
    deadline_ms: float | None
    good_per_s: float | None
    latency_ms: Mapping[str, float]
    service_ms: Mapping[str, float] | None
    latency: Durations
    series: tuple[tuple[float, int, int], ...]
    tester: Tester
    warnings: tuple[str, ...]
    was_stopped: bool

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""
        return sum(self.errors.values())


def summarise(tally: Tally, *, load: float, is_open: bool, deadline_ms: float | None) -> Summary:
    """Return the figures of a test.

    Args:
        tally: what all processes have counted.
        load: connections, or requests per second.
        is_open: which of the two.
        deadline_ms: what answers should keep to; None for none.
    """
    window = tally.window
    assert window.end_ns is not None
    seconds = max(0, window.end_ns - window.begin_ns) / _SECOND_NS
    latency = Durations.merged([tally.latency])
    figures = _figures(latency)
    tester = _tester(tally, is_open)
    return Summary(
        load=load,
        is_open=is_open,
        seconds=seconds,
        sent=tally.sent,
        fine=tally.fine,
        errors=dict(tally.errors.most_common()),
        abandoned=tally.abandoned,
        degraded=tally.degraded,
        requests_per_s=_per_second(tally.answers, seconds),
        rows_per_s=_per_second(tally.rows, seconds),
        deadline_ms=deadline_ms,
        good_per_s=None if deadline_ms is None else _per_second(tally.in_time, seconds),
        latency_ms=figures,
        service_ms=_figures(Durations.merged([tally.service])) if is_open else None,
        latency=latency,
        series=_series(tally),
        tester=tester,
        warnings=tuple(_warnings(tester, figures, tally)),
        was_stopped=tally.was_stopped,
    )


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _figures(durations: Durations) -> dict[str, float]:
    values = durations.quantiles_ms(list(QUANTILES.values()))
    return {
        "min": durations.least_ms,
        "mean": durations.mean_ms,
        **dict(zip(QUANTILES, values, strict=True)),
    }


def _tester(tally: Tally, is_open: bool) -> Tester:
    schedule = Durations.merged([tally.schedule_lag])
    return Tester(
        busy_shares=tuple(usage.busy_share for usage in tally.usages),
        cpu_s=sum(usage.process_ns for usage in tally.usages) / _SECOND_NS,
        wait_s=sum(usage.wait_ns for usage in tally.usages) / _SECOND_NS,
        loop_lag_ms=_lag(Durations.merged([tally.loop_lag])),
        schedule_lag_ms=_lag(schedule) if is_open else None,
        waited=tally.waited,
    )


def _lag(durations: Durations) -> dict[str, float]:
    p50, p99, most = durations.quantiles_ms([0.5, 0.99, 1.0])
    return {"p50": p50, "p99": p99, "max": most}


def _series(tally: Tally) -> tuple[tuple[float, int, int], ...]:
    """Every entry from the first to the last, also those in which nothing came."""
    assert tally.window.end_ns is not None
    length_ns = max(0, tally.window.end_ns - tally.window.begin_ns)
    return tuple(
        (number * SERIES_NS / _SECOND_NS, *tally.series.get(number, (0, 0)))
        for number in range(-(-length_ns // SERIES_NS))
    )


def _warnings(tester: Tester, latency_ms: Mapping[str, float], tally: Tally) -> list[str]:
    warnings = []
    busiest = max(tester.busy_shares, default=0.0)
    if busiest > _BUSY:
        warnings.append(
            f"the load tester was the bottleneck: one of its processes was busy {busiest:.0%} of "
            "the time (working, or waiting for a core); try more --processes, or another machine"
        )
    lags = tester.schedule_lag_ms or tester.loop_lag_ms
    what = "sent requests late" if tester.schedule_lag_ms else "read answers late"
    if lags["p99"] > _LAG_MS and lags["p99"] > _LAG_SHARE * latency_ms["p50"] > 0:
        warnings.append(
            f"the load tester {what}: its lag (p99 {lags['p99']:.3g} ms) is part of the latencies "
            f"(p50 {latency_ms['p50']:.3g} ms)"
        )
    if tester.waited:
        warnings.append(
            f"{tester.waited:,} requests were due while all connections were busy; they waited "
            "here, which their latency includes (if the server should have had them: more "
            "--connections)"
        )
    if tally.fine == 0:
        warnings.append("not one good answer was measured")
    return warnings
