"""Figures as Markdown tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import (
    LimitFigures,
    OverheadFigures,
    ProtocolFigures,
    ServingFigures,
    Spread,
    ValidationFigures,
)

__all__ = [
    "limit_text",
    "markdown",
    "optional",
    "overhead_table",
    "protocol_table",
    "quantity",
    "serving_table",
    "spread",
    "validation_table",
]

_SCALE = ((1 << 20, "MB"), (1 << 10, "KB"))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is left-aligned, the others right-aligned."""
    line = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, line, *rows))


def spread(value: Spread) -> str:
    """Return a median with its range, e.g. ``15,230 (14,800–15,600)``."""
    low, high = _number(value.low), _number(value.high)
    return f"{_number(value.median)} ({low}–{high})"


def optional(value: Spread | None) -> str:
    """Return the same, or nothing of what was not measured."""
    return "" if value is None else spread(value)


def _number(value: float) -> str:
    """Three significant digits, or all digits before the point; no exponents."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else "0"


def quantity(size: int) -> str:
    """Return a size in the biggest unit that fits."""
    for unit, name in _SCALE:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


def serving_table(figures: ServingFigures) -> str:
    """Return the tables of a served ensemble: its limit, its loads, its idle memory."""
    loads = markdown(
        (
            *("connections", "rows/s", "of the limit", "/ placed by hand"),
            *("p50 ms", "p50 / all in turn", "p99 ms"),
        ),
        [
            (
                str(load.connections),
                spread(load.rows_per_s),
                spread(load.of_limit),
                optional(load.of_by_hand),
                spread(load.p50_ms),
                spread(load.p50_of_in_turn),
                spread(load.p99_ms),
            )
            for load in figures.loads
        ],
    )
    memory = markdown(
        ("idle process", "RSS MiB", "PSS MiB", "USS MiB"),
        [
            (one.name, f"{one.rss_mib:.0f}", f"{one.pss_mib:.0f}", f"{one.uss_mib:.0f}")
            for one in figures.idle_memory
        ],
    )
    return "\n\n".join((limit_text(figures.limit), loads, memory))


def limit_text(limit: LimitFigures) -> str:
    """Return what the members do without a server, in a sentence."""
    batches = ", ".join(f"{name} {batch}" for name, batch in limit.batches.items())
    split = ""
    if limit.split_ms is not None:
        cores = " | ".join(" + ".join(names) for names in limit.split)
        split = f"; best split over the cores ({cores}) {spread(limit.split_ms)} ms"
    return (
        f"Limit without a server, {limit.cores} cores: {spread(limit.rows_per_s)} rows/s "
        f"(batch sizes: {batches}); at batch 1 the slowest member takes "
        f"{spread(limit.slowest_ms)} ms, all members in turn {spread(limit.in_turn_ms)} ms"
        f"{split}."
    )


def overhead_table(figures: OverheadFigures) -> str:
    """Return the tables of the path's price: per payload, and per member."""
    payloads = markdown(
        (
            *("payload", "protocol", "body", "p50 ms", "p99 ms", "memcpy ms"),
            *("p50 less memcpy, ms", "front-end CPU µs"),
        ),
        [
            (
                quantity(one.payload_bytes),
                one.protocol,
                quantity(one.body_bytes),
                spread(one.p50_ms),
                spread(one.p99_ms),
                spread(one.memcpy_ms),
                spread(one.more_than_memcpy_ms),
                optional(one.front_end_cpu_us),
            )
            for one in figures.payloads
        ],
    )
    members = markdown(
        ("members", "connections", "requests/s", "CPU µs per request", "µs per extra member"),
        [
            (
                str(one.members),
                str(one.connections),
                spread(one.requests_per_s),
                spread(one.cpu_us_per_request),
                optional(one.us_per_extra_member),
            )
            for one in figures.members
        ],
    )
    return f"{payloads}\n\n{members}"


def validation_table(figures: ValidationFigures) -> str:
    """Return the table of what was promised and what was measured."""
    pairs = markdown(
        (
            "ensemble and matrix",
            "connections",
            "measured rows/s",
            "simulated",
            "error",
            "plain model",
        ),
        [
            (
                pair.name,
                str(pair.connections),
                spread(pair.measured_rows_per_s),
                _number(pair.simulated_rows_per_s),
                f"{pair.error:+.0%}",
                _number(pair.modelled_rows_per_s),
            )
            for pair in figures.pairs
        ],
    )
    return f"Median error {figures.median_error:.1%}.\n\n{pairs}"


def protocol_table(figures: ProtocolFigures) -> str:
    """Return the table of one ensemble over every protocol."""
    ways = markdown(
        ("", "requests/s", "p50 ms"),
        [
            (one.name, spread(one.requests_per_s), spread(one.p50_ms) if one.p50_ms.high else "")
            for one in figures.ways
        ],
    )
    if figures.grpc_of_echo is None:
        return ways
    return f"{ways}\n\ngRPC does {spread(figures.grpc_of_echo)} of an echo of raw bytes."
