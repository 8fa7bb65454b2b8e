"""`ensembled calibrate`: prints what was fitted of an ensemble, and its evaluation on other data.

Runs in the process of the command line. A calibration flows in; tables or JSON on stdout, a
fragment of YAML and a plot flow out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from server.calibration.evaluation import CascadeEvaluation, Evaluation, MemberEvaluation
from server.calibration.pipeline import Calibration
from server.calibration.report import draw_reliability
from server.cli.application import file_errors, make_table, stdout_console, write_output
from server.errors import ConfigError
from server.stdout import echo

__all__ = ["print_calibration"]


def print_calibration(
    found: Calibration, *, output: Path | None, plot: Path | None, as_json: bool
) -> None:
    """Print a calibration on stdout, and write what was fitted and the plot into files.

    Raises:
        ConfigError: if a file can't be written, or there are no probabilities to plot.
    """
    if as_json:
        document = {
            "ensemble": found.target.name,
            "rows": {"fitting": len(found.fitting), "held_out": len(found.held)},
            "rule": found.fit.rule.name,
            **asdict(found.evaluation),
            "outside": found.detection,
            "notes": found.notes,
            "yaml": found.yaml,
        }
        echo(json.dumps(document))
    else:
        _print_tables(found)
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        echo(found.yaml, end="")
    if output is not None:
        write_output("--output", output, found.yaml)
    if plot is not None:
        diagrams = found.evaluation.reliability
        if not all(diagrams.values()):
            rule = found.target.config.rule
            raise ConfigError(f"--plot: answers of rule {rule} are no probabilities")
        with file_errors(f"--plot {plot}"):
            draw_reliability(plot, found.target.name, diagrams)


def _print_tables(found: Calibration) -> None:
    console, evaluation = stdout_console(), found.evaluation
    console.print(_combined_table(evaluation, len(found.held)))
    console.print(_member_table(evaluation.members))
    if evaluation.cascade is not None:
        console.print(_cascade_table(evaluation.cascade))
    if found.detection:
        console.print(_detection_table(found.detection))


def _combined_table(evaluation: Evaluation, held_rows: int) -> Table:
    table = make_table(
        "",
        numbers=("accuracy", "log loss", "Brier", "ECE", "member-rows/row"),
        title=f"the ensemble, {held_rows} held-out rows",
    )
    for name, one in evaluation.combined.items():
        metrics = ["-"] * 3
        if (found := one.quality) is not None:
            values = found.log_loss, found.brier, found.calibration_error
            metrics = [f"{value:.4f}" for value in values]
        table.add_row(name, f"{one.accuracy:.2%}", *metrics, f"{one.member_rows_per_row:.2f}")
    return table


def _member_table(members: Mapping[str, MemberEvaluation]) -> Table:
    table = make_table(
        "member",
        numbers=("accuracy", "temperature", "log loss", "Brier", "ECE", "weight", "selected"),
        title="its members, with old -> new temperature",
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


def _cascade_table(cascade: CascadeEvaluation) -> Table:
    points = 100 * (cascade.accuracy - cascade.whole_accuracy)
    table = make_table(
        "stage",
        numbers=("confidence", "rows that leave"),
        title=f"the cascade ({cascade.order}) saves {cascade.saved:.1%} of the member-rows; "
        f"accuracy {cascade.accuracy:.2%}, all members {cascade.whole_accuracy:.2%} "
        f"({points:+.2f} points)",
    )
    thresholds = [*(f"{one:g}" for one in cascade.confidence), ""]
    for stage, threshold, share in zip(cascade.stages, thresholds, cascade.leaving, strict=True):
        table.add_row(", ".join(stage), threshold, f"{share:.1%}")
    return table


def _detection_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = make_table(
        "score",
        numbers=list(found),
        title="AUROC of scores for telling outside from held-out rows, "
        "with old -> new temperatures",
    )
    for score in next(iter(found.values()))["before"]:
        changes = [
            f"{one['before'][score]:.3f} -> {one['after'][score]:.3f}" for one in found.values()
        ]
        table.add_row(score, *changes)
    return table
