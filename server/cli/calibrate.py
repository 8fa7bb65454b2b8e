"""`ensembled calibrate`: fits an ensemble on data, and prints its evaluation on other data.

Runs in the process of the command line. A configuration and .npz files flow in; tables or JSON on
stdout, a fragment of YAML and a plot flow out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from server.calibration.evaluation import (
    CascadeEvaluation,
    CombinedEvaluation,
    MemberEvaluation,
)
from server.calibration.fitting import FitOptions
from server.calibration.pipeline import Calibration, calibrate_ensemble
from server.calibration.report import draw_reliability
from server.calibration.target import CalibrationTarget
from server.cli.application import (
    check_output,
    check_plot,
    file_errors,
    stdout_console,
    write_output,
)
from server.config import Config
from server.errors import ConfigError
from server.stdout import echo

__all__ = ["calibrate"]


def calibrate(
    config: Config,
    path: Path,
    data: Path,
    options: FitOptions,
    *,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
    ensemble: str | None,
    holdout: float,
    outside: Sequence[Path],
) -> None:
    """Calibrate an ensemble, and print the result on stdout.

    The arguments are those of `calibrate_ensemble`, and the command's options for output.

    Raises:
        ConfigError: if the configuration, a file or an option is wrong.
        StartError: if a member can't run or fails.
    """
    check_output("--output", output)
    check_plot(plot)
    found = calibrate_ensemble(
        config, path, data, options, ensemble=ensemble, holdout=holdout, outside=outside
    )
    if as_json:
        echo(json.dumps(_document(found)))
    else:
        _print_tables(stdout_console(), found)
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        echo(found.yaml, end="")
    if output is not None:
        write_output("--output", output, found.yaml)
    if plot is not None:
        before, after = found.evaluation.before, found.evaluation.after
        if not before or not after:
            rule = found.target.config.rule
            raise ConfigError(f"--plot: answers of rule {rule} are no probabilities")
        with file_errors(f"--plot {plot}"):
            draw_reliability(plot, found.target.name, {"before": before, "after": after})


def _document(found: Calibration) -> dict[str, Any]:
    target, evaluation = found.target, found.evaluation
    cascade = None
    if evaluation.cascade is not None:
        stages = {"stages": target.stages, "order": target.order}
        cascade = {**stages, **asdict(evaluation.cascade)}
    return {
        "ensemble": target.name,
        "rows": {"fitting": len(found.fitting), "held_out": len(found.held)},
        "members": {name: asdict(one) for name, one in evaluation.members.items()},
        "rule": found.fit.rule.name,
        "combined": {name: asdict(one) for name, one in evaluation.combined.items()},
        "cascade": cascade,
        "outside": found.detection,
        "reliability": {
            "before": [asdict(one) for one in evaluation.before],
            "after": [asdict(one) for one in evaluation.after],
        },
        "notes": list(found.notes),
        "yaml": found.yaml,
    }


def _print_tables(console: Console, found: Calibration) -> None:
    evaluation = found.evaluation
    console.print(_combined_table(evaluation.combined, len(found.held)))
    console.print(_member_table(evaluation.members))
    if evaluation.cascade is not None:
        console.print(_cascade_table(found.target, evaluation.cascade))
    if found.detection:
        console.print(_detection_table(found.detection))


def _combined_table(combined: Mapping[str, CombinedEvaluation], held_rows: int) -> Table:
    table = _table(
        f"the ensemble, {held_rows} held-out rows",
        *("", "accuracy", "log loss", "Brier", "ECE", "member-rows/row"),
    )
    for name, one in combined.items():
        metrics = ["-"] * 3
        if (found := one.quality) is not None:
            metrics = [
                f"{value:.4f}" for value in (found.log_loss, found.brier, found.calibration_error)
            ]
        table.add_row(name, f"{one.accuracy:.2%}", *metrics, f"{one.member_rows_per_row:.2f}")
    return table


def _member_table(members: Mapping[str, MemberEvaluation]) -> Table:
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


def _cascade_table(target: CalibrationTarget, cascade: CascadeEvaluation) -> Table:
    points = 100 * (cascade.accuracy - cascade.whole_accuracy)
    table = _table(
        f"the cascade ({target.order}) saves {cascade.saved:.1%} of the member-rows; accuracy "
        f"{cascade.accuracy:.2%}, all members {cascade.whole_accuracy:.2%} ({points:+.2f} points)",
        *("stage", "confidence", "rows that leave"),
    )
    thresholds = [*(f"{one:g}" for one in cascade.confidence), ""]
    for stage, threshold, share in zip(target.stages, thresholds, cascade.leaving, strict=True):
        table.add_row(", ".join(stage), threshold, f"{share:.1%}")
    return table


def _detection_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = _table(
        "AUROC of scores for telling outside from held-out rows, with old -> new temperatures",
        *("score", *found),
    )
    for score in next(iter(found.values()))["before"]:
        table.add_row(
            score,
            *(f"{one['before'][score]:.3f} -> {one['after'][score]:.3f}" for one in found.values()),
        )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for other in others:
        table.add_column(other, justify="right")
    return table
