"""Plots of a test or a sweep, with matplotlib. Runs in the parent, after the load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ensembled_client.load.errors import LoadTestError
from ensembled_client.load.options import LoadOptions
from ensembled_client.load.summary import Summary

matplotlib.use("Agg")

from matplotlib.figure import Figure  # noqa: E402  (after the choice of the backend)

__all__ = ["bins_of", "save_plot"]

_GOOD, _BAD, _PALE = "#1f6f8b", "#c8553d", "#9ab8c2"
_MAX_BINS = 80
_TICKS = {0.5: "50", 0.9: "90", 0.99: "99", 0.999: "99.9", 0.9999: "99.99"}


def save_plot(path: Path, summaries: Sequence[Summary], options: LoadOptions) -> None:
    """Write a plot: of one test its distribution and time series, of a sweep its curves.

    Raises:
        LoadTestError: if the file can't be written.
    """
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
