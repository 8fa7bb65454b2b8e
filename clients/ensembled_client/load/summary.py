"""The figures of a test out of its statistics, doubts about them, and gates. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ensembled_client.load.stats import BIN_NS, DurationHistogram, RequestStats

__all__ = ["Gates", "Summary"]

# The quantiles in reports, by name.
_QUANTILES: Mapping[str, float] = {
    "p50": 0.5,
    "p90": 0.9,
    "p99": 0.99,
    "p99.9": 0.999,
    "max": 1.0,
}
_SECOND_NS = 1_000_000_000
# Above these the figures are the load tester's: a share of the time, and a share of the median.
_MAX_BUSY_SHARE = 0.9
_MAX_LAG_SHARE = 0.25
# Less lag than this is normal: it is what the kernel's timers and the loop take.
_NORMAL_LAG_MS = 0.5


@dataclass(frozen=True)
class Summary:
    """The figures of one test."""

    stats: RequestStats  # of all processes; the end of the measurement is known
    load: float  # connections, or requests per second of an open loop (a trace's mean)
    is_open: bool
    deadline_ms: float | None  # of the goodput; None for none

    @property
    def seconds(self) -> float:
        """The length of the measurement."""
        window = self.stats.window
        assert window.end_ns is not None
        return max(0, window.end_ns - window.begin_ns) / _SECOND_NS

    @property
    def errors(self) -> Mapping[str, int]:
        """Errors by kind, the most frequent first."""
        return dict(self.stats.errors.most_common())

    @property
    def failed(self) -> int:
        """The number of requests that ended with an error."""
        return self.stats.errors.total()

    def _per_second(self, count: int) -> float:
        return count / self.seconds if self.seconds > 0 else 0.0

    @property
    def requests_per_s(self) -> float:
        """The rate of good responses that arrived in the measurement."""
        return self._per_second(self.stats.responses)

    @property
    def rows_per_s(self) -> float:
        """The rate of their rows."""
        return self._per_second(self.stats.rows)

    @property
    def goodput_per_s(self) -> float | None:
        """The rate of those within the deadline; None without one."""
        return None if self.deadline_ms is None else self._per_second(self.stats.in_time)

    @cached_property
    def latency_ms(self) -> Mapping[str, float]:
        """Latency by quantile, with `mean` and `min`; from the intended start if `is_open`."""
        return _figures(self.stats.latency)

    @cached_property
    def service_ms(self) -> Mapping[str, float] | None:
        """The same from the actual sending; None in a closed loop, where they are one."""
        return _figures(self.stats.service) if self.is_open else None

    @property
    def series(self) -> list[tuple[float, int, int]]:
        """Every bin of `BIN_NS`: seconds since the begin, good responses, errors."""
        window, good, bad = self.stats.window, self.stats.good_bins, self.stats.error_bins
        assert window.end_ns is not None
        bins = -(-max(0, window.end_ns - window.begin_ns) // BIN_NS)
        return [(number * BIN_NS / _SECOND_NS, good[number], bad[number]) for number in range(bins)]

    # -- the load tester itself -----------------------------------------------------------------

    @property
    def busy_shares(self) -> list[float]:
        """The share of the time in which each process had work to do, 0 to 1."""
        return [usage.busy_share for usage in self.stats.usages]

    @property
    def cpu_s(self) -> float:
        """CPU time of all processes in the measurement, all threads."""
        return sum(usage.process_ns for usage in self.stats.usages) / _SECOND_NS

    @property
    def wait_for_core_s(self) -> float:
        """How long their sending threads waited for a core."""
        return sum(usage.wait_ns for usage in self.stats.usages) / _SECOND_NS

    @cached_property
    def loop_lag_ms(self) -> Mapping[str, float]:
        """How late event loops called timers."""
        return _lag_figures(self.stats.loop_lag)

    @cached_property
    def schedule_lag_ms(self) -> Mapping[str, float] | None:
        """How late due requests were noticed; None in a closed loop."""
        return _lag_figures(self.stats.schedule_lag) if self.is_open else None

    @property
    def warnings(self) -> list[str]:
        """Why the figures should be doubted."""
        warnings = []
        busiest = max(self.busy_shares, default=0.0)
        if busiest > _MAX_BUSY_SHARE:
            warnings.append(
                f"the load tester was the bottleneck: one of its processes was busy {busiest:.0%} "
                "of the time (working, or waiting for a core); try more --processes, or another "
                "machine"
            )
        lag = (self.schedule_lag_ms or self.loop_lag_ms)["p99"]
        p50 = self.latency_ms["p50"]
        if lag > _NORMAL_LAG_MS and lag > _MAX_LAG_SHARE * p50 > 0:
            what = "sent requests late" if self.is_open else "read responses late"
            warnings.append(
                f"the load tester {what}: its lag (p99 {lag:.3g} ms) is part of the latencies "
                f"(p50 {p50:.3g} ms)"
            )
        if self.stats.queued:
            warnings.append(
                f"{self.stats.queued:,} requests were due while all connections were busy; they "
                "waited here, which their latency includes (if the server should have had them: "
                "more --connections)"
            )
        if self.stats.succeeded == 0:
            warnings.append("not one good response was measured")
        return warnings


def _figures(durations: DurationHistogram) -> dict[str, float]:
    values = durations.quantiles_ms(list(_QUANTILES.values()))
    return {
        "min": durations.min_ms,
        "mean": durations.mean_ms,
        **dict(zip(_QUANTILES, values, strict=True)),
    }


def _lag_figures(durations: DurationHistogram) -> dict[str, float]:
    p50, p99, longest = durations.quantiles_ms([0.5, 0.99, 1.0])
    return {"p50": p50, "p99": p99, "max": longest}


@dataclass(frozen=True)
class Gates:
    """What continuous integration requires of a test; None for no limit."""

    max_p99_ms: float | None = None  # of latency
    min_rate: float | None = None  # good responses per second
    max_errors: float | None = None  # a count, or a share (0 to 1) if `errors_are_share`
    errors_are_share: bool = False

    def failures(self, summary: Summary) -> list[str]:
        """Return a line for every gate that failed; without good responses there is no p99."""
        lines = []
        p99_ms, succeeded = summary.latency_ms["p99"], summary.stats.succeeded
        if self.max_p99_ms is not None and (succeeded == 0 or p99_ms > self.max_p99_ms):
            measured = f"{p99_ms:.4g} ms" if succeeded else "unknown, there was no good response"
            lines.append(f"--max-p99-ms {self.max_p99_ms:g}: p99 is {measured}")
        if self.min_rate is not None and not summary.requests_per_s >= self.min_rate:
            lines.append(
                f"--min-rate {self.min_rate:g}: there were {summary.requests_per_s:.6g} good "
                "responses/s"
            )
        if self.max_errors is not None:
            lines += self._error_failures(summary.failed, succeeded, self.max_errors)
        return lines

    def _error_failures(self, failed: int, succeeded: int, limit: float) -> list[str]:
        if not self.errors_are_share:
            return [f"--max-errors {limit:g}: there were {failed:,}"] if failed > limit else []
        share = failed / max(1, failed + succeeded)
        if share <= limit:
            return []
        return [f"--max-errors {limit * 100:.6g}%: {share:.3%} of the requests failed"]
