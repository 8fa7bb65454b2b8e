"""`ensembled calibrate`: prints what was fitted of an ensemble, and its evaluation on other data.

Runs in the process of the command line. A calibration flows in; tables or JSON on stdout, a
fragment of YAML and a plot flow out. The diagram is that of Niculescu-Mizil and Caruana,
"Predicting Good Probabilities with Supervised Learning" (ICML 2005), with the number of rows below
it; it needs matplotlib, an extra (`plot`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table

from server.calibration.conformal import SPLITS, Coverage
from server.calibration.evaluation import CascadeEvaluation, Evaluation, MemberEvaluation
from server.calibration.metrics import ReliabilityBin, calibration_error
from server.calibration.numbers import NumberCalibration
from server.calibration.pipeline import Calibration
from server.cli.application import file_errors, make_table, stdout_console, write_output
from server.errors import ConfigError
from server.stdout import echo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["print_calibration"]


def print_calibration(
    found: Calibration | NumberCalibration, files: Mapping[str, Path | None], *, as_json: bool
) -> None:
    """Print a calibration on stdout, and write into files what was fitted, and the plot.

    `files` are those of the options `--output`, `--conformal` and `--plot`.

    Raises:
        ConfigError: if a file can't be written, or there are no probabilities to plot.
    """
    output, plot, conformal = (files[name] for name in ("--output", "--plot", "--conformal"))
    if as_json:
        echo(json.dumps(_document(found)))
    else:
        _print_tables(found)
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        echo(found.yaml, end="")
    if output is not None:
        write_output("--output", output, found.yaml)
    if conformal is not None and found.document is not None:
        text = msgspec.json.encode(found.document).decode()
        write_output("--conformal", conformal, f"{text}\n")
    if plot is not None:
        diagrams = {} if isinstance(found, NumberCalibration) else found.evaluation.reliability
        if not diagrams or not all(diagrams.values()):
            rule = found.target.rule
            raise ConfigError(f"--plot: answers of rule {rule} are no probabilities")
        with file_errors(f"--plot {plot}"):
            _draw_reliability(plot, found.target.name, diagrams)


def _document(found: Calibration | NumberCalibration) -> dict[str, Any]:
    if isinstance(found, NumberCalibration):
        return {
            "ensemble": found.target.name,
            "rows": {"calibration": found.rows},
            "rule": found.target.rule,
            "errors": found.errors,
            "intervals": [asdict(one) for one in found.intervals],
            "notes": found.notes,
            "yaml": found.yaml,
        }
    return {
        "ensemble": found.target.name,
        "rows": {"fitting": len(found.fitting), "held_out": len(found.held)},
        "rule": found.fit.rule.name,
        **asdict(found.evaluation),
        "outside": found.detection,
        "sets": [asdict(one) for one in found.sets],
        "notes": found.notes,
        "yaml": found.yaml,
    }


def _print_tables(found: Calibration | NumberCalibration) -> None:
    console = stdout_console()
    if isinstance(found, NumberCalibration):
        console.print(_error_table(found))
        if found.intervals:
            console.print(_coverage_table("intervals", "width", found.intervals))
        return
    evaluation = found.evaluation
    console.print(_combined_table(evaluation, len(found.held)))
    console.print(_member_table(evaluation.members))
    if evaluation.cascade is not None:
        console.print(_cascade_table(evaluation.cascade))
    if found.sets:
        console.print(_coverage_table("prediction sets", "classes", found.sets))
    if found.detection:
        console.print(_detection_table(found.detection))


def _error_table(found: NumberCalibration) -> Table:
    table = make_table("", numbers=("RMSE",), title=f"the ensemble, {found.rows} rows")
    for name, error in found.errors.items():
        table.add_row(name, f"{error:.4g}")
    return table


def _coverage_table(what: str, size: str, found: Sequence[Coverage]) -> Table:
    first = found[0]
    table = make_table(
        "method",
        numbers=("coverage", "± per split", size),
        title=f"{what} for a coverage of {first.wanted:g}: means over {SPLITS} random splits, "
        f"scores of {first.calibration_rows} rows, evaluated on {first.held_out_rows} others",
    )
    for one in found:
        spread = f"{one.deviation:.2%}" if one.calibration_rows else "-"
        table.add_row(one.method, f"{one.coverage:.2%}", spread, f"{one.size:.4g}")
    return table


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


def _draw_reliability(
    path: Path, title: str, diagrams: Mapping[str, Sequence[ReliabilityBin]]
) -> None:
    """Draw how accurate an ensemble is by its confidence, diagrams by their title side by side."""
    import matplotlib as mpl  # noqa: PLC0415 (an extra)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(4.2 * len(diagrams), 5), layout="tight")
    panels = figure.subplots(
        2, len(diagrams), sharex=True, sharey="row", height_ratios=[3, 1], squeeze=False
    )
    for upper, lower, (name, bins) in zip(*panels, diagrams.items(), strict=True):
        _draw(upper, lower, bins)
        heading = f"{name}: ECE {calibration_error(bins):.3f}"
        upper.set_title(heading, fontsize=10, parse_math=False)
    panels[0][0].set_ylabel("accuracy")
    panels[1][0].set_ylabel("rows")
    figure.suptitle(title, parse_math=False)
    # The same image is the same file: no dates, no random ids.
    with mpl.rc_context({"svg.hashsalt": "ensembled"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _draw(upper: Axes, lower: Axes, bins: Sequence[ReliabilityBin]) -> None:
    left, width = [one.low for one in bins], [one.high - one.low for one in bins]
    upper.bar(left, [one.accuracy for one in bins], width, align="edge", color="tab:blue")
    upper.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1)
    points = [(one.confidence, one.accuracy) for one in bins if one.rows]
    upper.plot(*zip(*points, strict=True), "o", color="tab:orange", markersize=4)
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    lower.bar(left, [one.rows for one in bins], width, align="edge", color="0.6")
    lower.set_xlabel("confidence")
