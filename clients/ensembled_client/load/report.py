"""Reports as text and JSON, plots (with matplotlib), and the progress line; in the parent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensembled_client.load.generator import Progress
from ensembled_client.load.options import LoadOptions, LoadTestError
from ensembled_client.load.summary import Summary

__all__ = [
    "ProgressLine",
    "bins_of",
    "command_document",
    "progress_display",
    "report_text",
    "save_plot",
    "sweep_text",
]

_MAX_ERROR_LINES = 10
_GOOD, _BAD, _PALE = "#1f6f8b", "#c8553d", "#9ab8c2"
_MAX_BINS = 80
_TICKS = {0.5: "50", 0.9: "90", 0.99: "99", 0.999: "99.9", 0.9999: "99.99"}


def report_text(summary: Summary, options: LoadOptions) -> str:
    """Return the report of one test."""
    stats = summary.stats
    lines = [
        f"{options.target.model} at {options.target.url} ({options.target.protocol}, "
        f"{_load(summary, options)}), {summary.seconds:.3g} s measured"
        + (", interrupted" if stats.was_interrupted else ""),
        "",
        _line(
            "throughput",
            f"{summary.requests_per_s:,.1f} requests/s, {summary.rows_per_s:,.1f} rows/s",
        ),
    ]
    if summary.goodput_per_s is not None:
        share = summary.goodput_per_s / summary.requests_per_s if summary.requests_per_s else 0.0
        good = f"{summary.goodput_per_s:,.1f} requests/s within {summary.deadline_ms:g} ms"
        lines.append(_line("goodput", f"{good} ({share:.2%} of the responses)"))
    lines.append(_line("latency", _milliseconds(summary.latency_ms)))
    if summary.service_ms is None:
        lines.append(_line("", "from the sending: in a closed loop there is no intended start"))
    else:
        lines.append(_line("", "from the intended start"))
        lines.append(_line("of which sent", _milliseconds(summary.service_ms)))
    counts = [f"{stats.sent:,} sent", f"{stats.succeeded:,} answered", f"{summary.failed:,} failed"]
    if stats.abandoned:
        counts.append(f"{stats.abandoned:,} without a response when it was interrupted")
    if stats.degraded:
        counts.append(f"{stats.degraded:,} responses degraded")
    lines += [
        _line("requests", ", ".join(counts)),
        *_error_lines(summary),
        _line("tester", _tester(summary)),
    ]
    if summary.warnings:
        lines += ["", *(f"WARNING: {warning}" for warning in summary.warnings)]
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"  {name:<14}{text}".rstrip()


def _load(summary: Summary, options: LoadOptions) -> str:
    if not summary.is_open:
        return f"closed loop, {summary.load:g} connections"
    return f"open loop, {options.arrivals}, {summary.load:,.6g} requests/s"


def _milliseconds(figures: Mapping[str, float]) -> str:
    names = [name for name in figures if name not in {"min", "mean"}]
    return ", ".join(f"{name} {figures[name]:.3f}" for name in names) + " ms"


def _error_lines(summary: Summary) -> list[str]:
    kinds = list(summary.errors.items())
    lines = [_line("error", f"{count:,} x {kind}") for kind, count in kinds[:_MAX_ERROR_LINES]]
    if len(kinds) > _MAX_ERROR_LINES:
        rest = sum(count for _, count in kinds[_MAX_ERROR_LINES:])
        lines.append(_line("error", f"{rest:,} x of {len(kinds) - _MAX_ERROR_LINES} other kinds"))
    return lines


def _tester(summary: Summary) -> str:
    parts = [
        f"busy {', '.join(f'{share:.0%}' for share in summary.busy_shares)}",
        f"{summary.cpu_s:.2f} s of CPU",
        f"waited {summary.wait_for_core_s:.2f} s for a core",
        f"loop lag p99 {summary.loop_lag_ms['p99']:.2f} ms",
    ]
    if (lag := summary.schedule_lag_ms) is not None:
        parts.append(f"schedule lag p99 {lag['p99']:.2f}, max {lag['max']:.2f} ms")
    return ", ".join(parts)


def sweep_text(summaries: Sequence[Summary], options: LoadOptions) -> str:
    """Return a table with a line for each load, and each one's errors and warnings."""
    load = "requests/s due" if summaries[0].is_open else "connections"
    lines = [
        f"{options.target.model} at {options.target.url} ({options.target.protocol})",
        "",
        f"{load:>14}{'requests/s':>12}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}"
        f"{'p99.9 ms':>10}{'errors':>8}{'busy':>6}",
    ]
    for one in summaries:
        quantiles = "".join(f"{one.latency_ms[n]:>10.3f}" for n in ("p50", "p90", "p99", "p99.9"))
        busy = max(one.busy_shares, default=0.0)
        lines.append(
            f"{one.load:>14g}{one.requests_per_s:>12,.1f}{quantiles}{one.failed:>8,}{busy:>6.0%}"
        )
    for one in summaries:
        lines += [f"  {line}" for line in _error_lines(one)]
        lines += [f"WARNING at {one.load:g}: {warning}" for warning in one.warnings]
    return "\n".join(lines)


def command_document(
    options: LoadOptions, summaries: Sequence[Summary], failed_gates: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Return the JSON of a command: its options, and the figures and failed gates of each test."""
    return {
        "url": options.target.url,
        "model": options.target.model,
        "protocol": options.target.protocol,
        "arrivals": options.arrivals,
        "rows": options.rows,
        "processes": options.processes,
        "warmup_s": options.warmup_s,
        "seed": options.seed,
        "tests": [
            _test_document(summary, lines)
            for summary, lines in zip(summaries, failed_gates, strict=True)
        ],
    }


def _test_document(summary: Summary, failed_gates: Sequence[str]) -> dict[str, Any]:
    stats = summary.stats
    return {
        "load": summary.load,
        "seconds": summary.seconds,
        "was_stopped": stats.was_interrupted,
        "requests": {
            "sent": stats.sent,
            "answered": stats.succeeded,
            "failed": summary.failed,
            "degraded": stats.degraded,
            "abandoned": stats.abandoned,
        },
        "requests_per_s": summary.requests_per_s,
        "rows_per_s": summary.rows_per_s,
        "deadline_ms": summary.deadline_ms,
        "goodput_per_s": summary.goodput_per_s,
        "latency_from": "intended start" if summary.is_open else "sending",
        "latency_ms": summary.latency_ms,
        "latency_from_sending_ms": summary.service_ms,
        "latency_hdr": stats.latency.to_hdr().encode().decode(),
        "errors": summary.errors,
        "per_second": _per_second(summary),
        "tester": {
            "busy_shares": summary.busy_shares,
            "cpu_s": summary.cpu_s,
            "wait_for_core_s": summary.wait_for_core_s,
            "loop_lag_ms": summary.loop_lag_ms,
            "schedule_lag_ms": summary.schedule_lag_ms,
            "waited_for_connection": stats.queued,
        },
        "warnings": summary.warnings,
        "failed_gates": list(failed_gates),
    }


def _per_second(summary: Summary) -> list[dict[str, int]]:
    """Return responses and errors in each whole second; the last may be a part of one."""
    seconds: dict[int, dict[str, int]] = {}
    for at_s, good, failed in summary.series:
        entry = seconds.setdefault(int(at_s), {"answered": 0, "failed": 0})
        entry["answered"] += good
        entry["failed"] += failed
    return list(seconds.values())


class ProgressLine:
    """The progress of all processes as text."""

    def __init__(self) -> None:
        self._latest: dict[int, Progress] = {}
        self._started_s = 0.0
        self._before = (0.0, 0)
        self._rate = 0.0

    def update(self, progress: Progress, now_s: float) -> str:
        """Return the line after a message of a process; the first one starts the clock."""
        if not self._latest:
            self._started_s = now_s
            self._before = (now_s, 0)
        self._latest[progress.index] = progress
        latest = self._latest.values()
        succeeded = sum(one.succeeded for one in latest)
        if now_s - self._before[0] >= 1:
            self._rate = (succeeded - self._before[1]) / (now_s - self._before[0])
            self._before = (now_s, succeeded)
        line = (
            f"{now_s - self._started_s:5.1f} s  {self._rate:,.0f}/s  {succeeded:,} answered  "
            f"{sum(one.failed for one in latest):,} failed  "
            f"{sum(one.in_flight for one in latest):,} in flight"
        )
        recent = sorted(ns for one in latest for ns in one.recent_ns)
        if not recent:
            return line
        p50, p99 = recent[len(recent) // 2], recent[len(recent) * 99 // 100]
        return f"{line}  p50 {p50 / 1e6:.3g}, p99 {p99 / 1e6:.3g} ms"


@contextlib.contextmanager
def progress_display(title: str, *, is_quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yield what draws progress on stderr."""
    if is_quiet:
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415  (not needed without a terminal)
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    line = ProgressLine()
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:

        def show(progress: Progress) -> None:
            text = title + line.update(progress, time.monotonic())
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

        yield show


# -- plots -------------------------------------------------------------------------------------


def save_plot(path: Path, summaries: Sequence[Summary], options: LoadOptions) -> None:
    """Write a plot: of one test its distribution and time series, of a sweep its curves.

    Raises LoadTestError if the file can't be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (an extra, and slow)

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if len(summaries) == 1:
        _distribution(left, summaries[0])
        _time_series(right, summaries[0])
    else:
        _latencies(left, summaries)
        _throughputs(right, summaries)
    kind = {"closed": "closed loop", "trace": "recorded arrivals"}.get(
        options.arrivals, f"{options.arrivals} rate"
    )
    figure.suptitle(f"{options.target.model}, {options.target.protocol}, {kind}", fontsize=11)
    for axes in (left, right):
        axes.grid(visible=True, color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror}") from None


def _distribution(axes: Any, summary: Summary) -> None:
    """Plot latency by quantile; the axis is stretched towards 100%, where the tail is."""
    count = max(summary.stats.succeeded, 2)
    shares = 1 - np.logspace(0, -np.log10(count), 200)
    values = summary.stats.latency.quantiles_ms(shares.tolist())
    axes.plot(1 / (1 - shares), values, color=_GOOD)
    axes.set_xscale("log")
    shown = [share for share in _TICKS if 1 / (1 - share) <= count]
    axes.set_xticks([1 / (1 - share) for share in shown], [_TICKS[share] for share in shown])
    axes.minorticks_off()
    if summary.deadline_ms is not None:
        axes.axhline(summary.deadline_ms, color=_BAD, linestyle="--", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("percentile")
    start = "intended start" if summary.is_open else "sending"
    axes.set_ylabel(f"latency from the {start}, ms")


def bins_of(series: Sequence[tuple[float, int, int]]) -> tuple[float, list[tuple[int, int]]]:
    """Return the width in seconds and (responses, errors) of as many bins as are legible.

    An incomplete last one is left out.
    """
    if not series:
        return 1.0, []
    width = -(-len(series) // _MAX_BINS)
    step_s = series[1][0] - series[0][0] if len(series) > 1 else 1.0
    whole = max(len(series) // width * width, width)
    bins = [
        (sum(one[1] for one in part), sum(one[2] for one in part))
        for part in (series[start : start + width] for start in range(0, whole, width))
    ]
    return width * step_s, bins


def _time_series(axes: Any, summary: Summary) -> None:
    width_s, bins = bins_of(summary.series)
    at_s = np.arange(len(bins)) * width_s
    axes.step(at_s, [good / width_s for good, _ in bins], where="post", color=_GOOD, label="good")
    if any(bad for _, bad in bins):
        rates = [bad / width_s for _, bad in bins]
        axes.step(at_s, rates, where="post", color=_BAD, label="failed")
        axes.legend(frameon=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("responses per second")


def _loads(axes: Any, summaries: Sequence[Summary]) -> list[float]:
    loads = [one.load for one in summaries]
    if min(loads) > 0 and max(loads) >= 8 * min(loads):
        axes.set_xscale("log", base=2)
        axes.set_xticks(loads, [f"{load:g}" for load in loads])
    axes.set_xlabel("requests/s due" if summaries[0].is_open else "connections")
    return loads


def _latencies(axes: Any, summaries: Sequence[Summary]) -> None:
    loads = _loads(axes, summaries)
    for name, color in (("p50", _PALE), ("p90", _GOOD), ("p99", _BAD)):
        axes.plot(loads, [one.latency_ms[name] for one in summaries], "o-", color=color, label=name)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("latency, ms")
    axes.legend(frameon=False)


def _throughputs(axes: Any, summaries: Sequence[Summary]) -> None:
    loads = _loads(axes, summaries)
    axes.plot(loads, [one.requests_per_s for one in summaries], "o-", color=_GOOD, label="good")
    if summaries[0].is_open:
        axes.plot(loads, loads, color=_PALE, linestyle=":", label="due")
        axes.legend(frameon=False)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("responses per second")
