"""The figures as a person reads them, and as a machine does. Pure: text and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensembled_client.load.options import Options
from ensembled_client.load.summary import Summary

__all__ = ["document_of", "progress_line", "sweep_text", "text_of"]

_MOST_ERRORS = 10
_SERIES_S = 1.0
_INTENDED = "from the intended start"
_SENDING = "from the sending: in a closed loop nothing says when it should have been"


def text_of(summary: Summary, options: Options) -> str:
    """Return the report of one test."""
    lines = [
        f"{options.target.model} at {options.target.url} ({options.target.protocol}, "
        f"{_load(summary, options)}), {summary.seconds:.3g} s measured"
        + (", broken off" if summary.was_stopped else ""),
        "",
        _line("throughput", _rate(summary)),
    ]
    if summary.good_per_s is not None:
        share = summary.good_per_s / summary.requests_per_s if summary.requests_per_s else 0.0
        good = f"{summary.good_per_s:,.1f} requests/s within {summary.deadline_ms:g} ms"
        lines.append(_line("goodput", f"{good} ({share:.2%} of the answers)"))
    lines += [
        _line("latency", _milliseconds(summary.latency_ms)),
        _line("", _INTENDED if summary.is_open else _SENDING),
    ]
    if summary.service_ms is not None:
        lines.append(_line("of which sent", _milliseconds(summary.service_ms)))
    lines.append(_line("requests", _requests(summary)))
    lines += _errors(summary)
    lines += [_line("tester", _tester(summary)), *_warnings(summary.warnings)]
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"  {name:<14}{text}".rstrip()


def _load(summary: Summary, options: Options) -> str:
    if not summary.is_open:
        return f"closed loop, {summary.load:g} connections"
    return f"open loop, {options.arrivals}, {summary.load:,.6g} requests/s"


def _rate(summary: Summary) -> str:
    return f"{summary.requests_per_s:,.1f} requests/s, {summary.rows_per_s:,.1f} rows/s"


def _milliseconds(figures: Mapping[str, float]) -> str:
    names = [name for name in figures if name not in {"min", "mean"}]
    return ", ".join(f"{name} {figures[name]:.3f}" for name in names) + " ms"


def _requests(summary: Summary) -> str:
    parts = [f"{summary.sent:,} sent", f"{summary.fine:,} answered", f"{summary.failed:,} failed"]
    if summary.abandoned:
        parts.append(f"{summary.abandoned:,} without an answer when it was broken off")
    if summary.degraded:
        parts.append(f"{summary.degraded:,} answers degraded")
    return ", ".join(parts)


def _errors(summary: Summary) -> list[str]:
    kinds = list(summary.errors.items())
    lines = [_line("error", f"{count:,} x {kind}") for kind, count in kinds[:_MOST_ERRORS]]
    if len(kinds) > _MOST_ERRORS:
        rest = sum(count for _, count in kinds[_MOST_ERRORS:])
        lines.append(_line("error", f"{rest:,} x of {len(kinds) - _MOST_ERRORS} other kinds"))
    return lines


def _tester(summary: Summary) -> str:
    tester = summary.tester
    parts = [
        f"busy {', '.join(f'{share:.0%}' for share in tester.busy_shares)}",
        f"{tester.cpu_s:.2f} s of CPU",
        f"waited {tester.wait_s:.2f} s for a core",
        f"loop lag p99 {tester.loop_lag_ms['p99']:.2f} ms",
    ]
    if tester.schedule_lag_ms is not None:
        parts.append(
            f"schedule lag p99 {tester.schedule_lag_ms['p99']:.2f}, "
            f"max {tester.schedule_lag_ms['max']:.2f} ms"
        )
    return ", ".join(parts)


def _warnings(warnings: Sequence[str]) -> list[str]:
    return ["", *(f"WARNING: {warning}" for warning in warnings)] if warnings else []


def sweep_text(summaries: Sequence[Summary], options: Options) -> str:
    """Return a table, a line for each load, and each one's warnings."""
    load = "requests/s due" if summaries[0].is_open else "connections"
    lines = [
        f"{options.target.model} at {options.target.url} ({options.target.protocol})",
        "",
        f"{load:>14}{'requests/s':>12}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}"
        f"{'p99.9 ms':>10}{'errors':>8}{'busy':>6}",
    ]
    for one in summaries:
        quantiles = "".join(f"{one.latency_ms[n]:>10.3f}" for n in ("p50", "p90", "p99", "p99.9"))
        busy = max(one.tester.busy_shares, default=0.0)
        lines.append(
            f"{one.load:>14g}{one.requests_per_s:>12,.1f}{quantiles}{one.failed:>8,}{busy:>6.0%}"
        )
    for one in summaries:
        lines += [f"  {line}" for line in _errors(one)]
        lines += [f"WARNING at {one.load:g}: {warning}" for warning in one.warnings]
    return "\n".join(lines)


def progress_line(seconds: float, fine: int, failed: int, in_flight: int, rate: float) -> str:
    """Return how it goes, in a line."""
    return (
        f"{seconds:5.1f} s  {rate:,.0f}/s  {fine:,} answered  {failed:,} failed  "
        f"{in_flight:,} in flight"
    )


def document_of(summary: Summary, failures: Sequence[str]) -> dict[str, Any]:
    """Return the figures of one test for JSON; milliseconds, seconds and counts."""
    return {
        "load": summary.load,
        "seconds": summary.seconds,
        "was_stopped": summary.was_stopped,
        "requests": {
            "sent": summary.sent,
            "answered": summary.fine,
            "failed": summary.failed,
            "degraded": summary.degraded,
            "abandoned": summary.abandoned,
        },
        "requests_per_s": summary.requests_per_s,
        "rows_per_s": summary.rows_per_s,
        "deadline_ms": summary.deadline_ms,
        "goodput_per_s": summary.good_per_s,
        "latency_from": "intended start" if summary.is_open else "sending",
        "latency_ms": dict(summary.latency_ms),
        "latency_from_sending_ms": summary.service_ms and dict(summary.service_ms),
        "latency_hdr": summary.latency.encode().histogram.decode(),
        "errors": dict(summary.errors),
        "per_second": _per_second(summary),
        "tester": {
            "busy_shares": list(summary.tester.busy_shares),
            "cpu_s": summary.tester.cpu_s,
            "wait_for_core_s": summary.tester.wait_s,
            "loop_lag_ms": dict(summary.tester.loop_lag_ms),
            "schedule_lag_ms": summary.tester.schedule_lag_ms
            and dict(summary.tester.schedule_lag_ms),
            "waited_for_connection": summary.tester.waited,
        },
        "warnings": list(summary.warnings),
        "failed_gates": list(failures),
    }


def _per_second(summary: Summary) -> list[dict[str, int]]:
    """Answers and errors in each whole second; the last may be a part of one."""
    seconds: dict[int, list[int]] = {}
    for at_s, fine, failed in summary.series:
        entry = seconds.setdefault(int(at_s // _SERIES_S), [0, 0])
        entry[0] += fine
        entry[1] += failed
    return [{"answered": fine, "failed": failed} for fine, failed in seconds.values()]
