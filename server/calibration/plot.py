"""Draws a reliability diagram: how often an ensemble is right where it is so and so sure.

Runs in the process of the command line; bins flow in, a file flows out. Needs matplotlib, an extra
(`plot`). The diagram is that of Niculescu-Mizil and Caruana, "Predicting Good Probabilities with
Supervised Learning" (ICML 2005), with the number of rows below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from server.calibration.metrics import Bin

__all__ = ["draw_reliability"]


def draw_reliability(path: Path, title: str, diagrams: Mapping[str, Sequence[Bin]]) -> None:
    """Draw diagrams side by side.

    Args:
        path: the file; its suffix tells the format, .svg or .png.
        title: of the picture.
        diagrams: bins by what they are of.

    Raises:
        OSError: if the file can't be written.
    """
    figure = Figure(figsize=(4.2 * len(diagrams), 5), layout="tight")
    panels = figure.subplots(
        2, len(diagrams), sharex=True, sharey="row", height_ratios=[3, 1], squeeze=False
    )
    for column, (name, bins) in enumerate(diagrams.items()):
        _draw_accuracy(panels[0][column], name, bins)
        _draw_rows(panels[1][column], bins)
    panels[0][0].set_ylabel("accuracy")
    panels[1][0].set_ylabel("rows")
    figure.suptitle(title, parse_math=False)
    # The same picture is the same file: no dates, no random ids.
    with mpl.rc_context({"svg.hashsalt": "ensembled"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _draw_accuracy(axes: Axes, name: str, bins: Sequence[Bin]) -> None:
    filled = [one for one in bins if one.rows]
    rows = sum(one.rows for one in filled)
    error = sum(one.rows * abs(one.accuracy - one.confidence) for one in filled) / rows
    left, width = [one.low for one in filled], [one.high - one.low for one in filled]
    axes.bar(left, [one.accuracy for one in filled], width, align="edge", color="tab:blue")
    axes.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1)
    sure, right = [one.confidence for one in filled], [one.accuracy for one in filled]
    axes.plot(sure, right, "o", color="tab:orange", markersize=4)
    axes.set_title(f"{name}: ECE {error:.3f}", fontsize=10, parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)


def _draw_rows(axes: Axes, bins: Sequence[Bin]) -> None:
    left, width = [one.low for one in bins], [one.high - one.low for one in bins]
    axes.bar(left, [one.rows for one in bins], width, align="edge", color="0.6")
    axes.set_xlabel("confidence")
