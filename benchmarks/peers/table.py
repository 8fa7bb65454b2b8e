"""Figures of other servers beside ours as Markdown tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import PeerCase, PeerFigures
from benchmarks.table import limit_text, markdown, optional, spread

__all__ = ["peer_table"]


def peer_table(figures: PeerFigures) -> str:
    """Return the tables of other servers beside ours."""
    return "\n\n".join(_peer_case(case) for case in figures.cases)


def _peer_case(case: PeerCase) -> str:
    """Return a case's tables: what was measured, and what it cost by process."""
    versions = ", ".join(f"{name} {number}" for name, number in case.versions.items())
    texts = [f"### {case.case}", f"{versions}."]
    if case.limit is not None:
        texts.append(limit_text(case.limit))
    texts += [f"Left out: {name}: {reason}." for name, reason in case.left_out.items()]
    loads = [
        (
            *(f"{load.system}, {load.connections}", spread(load.requests_per_s)),
            *(optional(load.ours), spread(load.p50_ms), optional(load.ours_p50)),
            *(spread(load.p99_ms), optional(load.of_limit), optional(load.p50_of_split)),
        )
        for load in case.loads
    ]
    header = (
        *("server, connections", "requests/s", "ours / it", "p50 ms", "p50 ours / its"),
        *("p99 ms", "of the limit", "p50 / best split"),
    )
    used = [any(row[column] for row in loads) for column in range(len(header))]
    texts.append(markdown(_only(used, header), [_only(used, row) for row in loads]))
    costs = [
        (
            *(f"{load.system}, {load.connections}", cost.role, spread(cost.cpu_us)),
            *(spread(cost.waiting_us), spread(cost.switches)),
        )
        for load in case.loads
        for cost in load.cost
    ]
    if costs:
        costs_header = (
            *("server, connections", "processes", "CPU µs per request", "waiting µs"),
            "context switches",
        )
        texts.append(markdown(costs_header, costs))
    return "\n\n".join(texts)


def _only(used: Sequence[bool], cells: Sequence[str]) -> list[str]:
    return [cell for cell, is_used in zip(cells, used, strict=True) if is_used]
