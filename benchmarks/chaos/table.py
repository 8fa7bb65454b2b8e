"""What came of a campaign, for people: a table by kind of fault, and what was not right. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.chaos.campaign import Happened
from benchmarks.chaos.runner import Report

__all__ = ["line_of", "text_of"]


def line_of(number: int, happened: Happened) -> str:
    """One fault, in a line, and what it broke."""
    flaws = "".join(f"\n     VIOLATION: {what}" for what in happened.violations)
    rate = "" if happened.rate_s is None else f", full throughput after {happened.rate_s:.1f} s"
    return f"{number:4d} {happened.kind}: well after {happened.well_s:.2f} s{rate}{flaws}"


def _row(kind: str, those: Sequence[Happened]) -> str:
    well = [one.well_s for one in those]
    rates = [one.rate_s for one in those if one.rate_s is not None]
    wrong, lost, untrue = (
        sum(counts) for counts in zip(*((o.wrong, o.lost, o.untrue) for o in those), strict=True)
    )
    rate = f"{statistics.median(rates):.1f} | {max(rates):.1f}" if rates else "- | -"
    return (
        f"| {kind} | {len(those)} | {wrong} | {lost} | {untrue} | "
        f"{statistics.median(well):.1f} | {max(well):.1f} | {rate} |"
    )


def text_of(report: Report) -> str:
    """The table, totals, and the first violations."""
    lines = [
        "| fault | times | wrong | lost | untrue | well after, s: median | most "
        "| throughput back after, s: median | most |",
        "| --- " * 9 + "|",
    ]
    kinds = sorted({one.kind for one in report.happened})
    lines += [_row(kind, [o for o in report.happened if o.kind == kind]) for kind in kinds]
    if report.happened:
        lines.append(_row("all", report.happened))
    verdict = report.verdict
    lines += [
        "",
        f"seed {report.seed}; {report.rate:.0f} answers/s without faults; {verdict.answered} right "
        f"answers, {verdict.wrong} wrong, {verdict.lost} lost, {verdict.untrue} untrue; "
        f"{verdict.failed} failures of poisoned rows, {verdict.late} past their deadline, "
        f"{verdict.refused} refused, {verdict.absent} while the front-end was away",
    ]
    lines += [f"VIOLATION: {what}" for what in verdict.violations]
    return "\n".join(lines)
