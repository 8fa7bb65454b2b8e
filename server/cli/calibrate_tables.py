"""The tables of `ensembled calibrate`.

Runs in the process of the command line; a report flows in, tables flow out.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from server.calibration.calibration import Calibration
from server.calibration.judging import CascadeReport, Combined, MemberReport
from server.calibration.subject import Subject

__all__ = ["show"]

Detection = Mapping[str, Mapping[str, Mapping[str, float]]]


def show(console: Console, found: Calibration) -> None:
    """Print what came of a calibration.

    Args:
        console: where to.
        found: what did.
    """
    report = found.report
    console.print(_combined(report.combined, len(found.held)))
    console.print(_members(report.members))
    if report.cascade is not None:
        console.print(_cascade(found.subject, report.cascade))
    if found.detection:
        console.print(_outside(found.detection))


def _combined(combined: Mapping[str, Combined], held_rows: int) -> Table:
    table = _table(
        f"the ensemble, {held_rows} held-out rows",
        *("", "accuracy", "log loss", "Brier", "ECE", "member-rows/row"),
    )
    for name, one in combined.items():
        quality = one.quality
        figures = ["-"] * 3
        if quality is not None:
            figures = [
                f"{quality.log_loss:.4f}",
                f"{quality.brier:.4f}",
                f"{quality.calibration_error:.4f}",
            ]
        table.add_row(name, f"{one.accuracy:.2%}", *figures, f"{one.member_rows_per_row:.2f}")
    return table


def _members(members: Mapping[str, MemberReport]) -> Table:
    table = _table(
        "its members, with old -> new temperature",
        *("member", "accuracy", "temperature", "log loss", "Brier", "ECE", "weight", "selected"),
    )
    for name, one in members.items():
        old, new = one.before, one.after
        table.add_row(
            name,
            f"{old.accuracy:.2%}",
            f"{one.old_temperature:.4g} -> {one.temperature:.4g}",
            f"{old.log_loss:.4f} -> {new.log_loss:.4f}",
            f"{old.brier:.4f} -> {new.brier:.4f}",
            f"{old.calibration_error:.4f} -> {new.calibration_error:.4f}",
            f"{one.weight:.4f}",
            str(one.selected),
        )
    return table


def _cascade(subject: Subject, cascade: CascadeReport) -> Table:
    points = 100 * (cascade.accuracy - cascade.whole_accuracy)
    table = _table(
        f"the cascade ({subject.order}) saves {cascade.saved:.1%} of the member-rows; accuracy "
        f"{cascade.accuracy:.2%}, all members {cascade.whole_accuracy:.2%} ({points:+.2f} "
        f"points)",
        *("stage", "confidence", "rows that leave"),
    )
    thresholds = [f"{one:g}" for one in cascade.confidence]
    for stage, threshold, share in zip(
        subject.stages, [*thresholds, ""], cascade.leaving, strict=True
    ):
        table.add_row(", ".join(stage), threshold, f"{share:.1%}")
    return table


def _outside(found: Detection) -> Table:
    table = _table(
        "AUROC of scores for telling outside from held-out rows, with old -> new temperatures",
        *("score", *found),
    )
    scores = next(iter(found.values()))["before"]
    for score in scores:
        table.add_row(
            score,
            *(f"{one['before'][score]:.3f} -> {one['after'][score]:.3f}" for one in found.values()),
        )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table
