"""A calibration on paper: YAML to put into the configuration by hand, and the reliability diagram.

Runs in the process of the command line. What was fitted and evaluated flows in; a text and an image
file flow out. The YAML is a fragment and not a whole configuration, because one that is read and
written again loses its comments. The diagram is that of Niculescu-Mizil and Caruana, "Predicting
Good Probabilities with Supervised Learning" (ICML 2005), with the number of rows below it; it needs
matplotlib, an extra (`plot`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from server.calibration.fitting import Fit
from server.calibration.metrics import ReliabilityBin, calibration_error
from server.calibration.target import CalibrationTarget
from server.calibration.temperature_scaling import has_temperature

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_reliability", "yaml_fragment"]

_WIDTH = 1_000_000


def yaml_fragment(target: CalibrationTarget, fit: Fit, about: str) -> str:
    """Return the keys that change, with their values; valid YAML, after a line about its origin."""
    return "\n".join([f"# {about}", *_lines(target, fit)]) + "\n"


def _lines(target: CalibrationTarget, fit: Fit) -> Iterator[str]:
    yield "members:"
    for member, temperature in zip(target.members, fit.temperatures, strict=True):
        if has_temperature(member):
            yield f"  {_flow(member.name)}:"
            yield f"    temperature: {_flow(temperature)}"
        else:
            yield f"  # {member.name} predicts a class: it has no temperature"
    names = [member.name for member in target.members]
    yield "ensembles:"
    yield f"  {_flow(target.name)}:"
    if fit.is_new_rule and fit.rule.weights is not None:
        yield "    rule: weighted_mean"
        yield f"    weights: {_flow(dict(zip(names, fit.rule.weights, strict=True)))}"
    else:
        yield f"    rule: {_flow(target.config.rule)}"
        yield "    # Weights for `rule: weighted_mean`, by --weights fitted or selected:"
        yield f"    # fitted: {_flow(dict(zip(names, fit.weights, strict=True)))}"
        yield f"    # selected: {_flow(dict(zip(names, fit.selection, strict=True)))}"
    if fit.confidence is not None:
        yield f"    cascade: {_flow([list(stage) for stage in target.stages])}"
        yield f"    confidence: {_flow(list(fit.confidence))}"


def _flow(value: str | float | list[Any] | Mapping[str, Any]) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=_WIDTH, sort_keys=False)
    return text.removesuffix("...\n").strip()


def draw_reliability(
    path: Path, title: str, diagrams: Mapping[str, Sequence[ReliabilityBin]]
) -> None:
    """Draw how accurate an ensemble is by its confidence, diagrams by their title side by side.

    Raises:
        OSError: if the file can't be written.
    """
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
