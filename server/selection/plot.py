"""Draws a selection: the front and what it is compared with, how members differ, what each adds.

Runs in the process of the command line; a selection flows in, a file, or the text of an SVG, flows
out. Needs matplotlib, an extra (`plot`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from server.selection.points import Point, Selection

__all__ = ["draw_selection", "selection_svg"]

#: More members than these have no names on the axes.
_MOST_NAMED = 40
_BASELINES = {
    "best_single": ("best single member", "s"),
    "all": ("all members", "D"),
    "caruana": ("Caruana's selection", "^"),
    "top_k": ("top k", "v"),
}


def draw_selection(path: Path, selection: Selection, picked: Point | None = None) -> None:
    """Draw a selection as .svg or .png, by the file's suffix; OSError if it can't be written."""
    figure = _figure(selection, picked)
    with _same_each_time():
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=150)


def selection_svg(selection: Selection, picked: Point | None = None) -> str:
    """Return the drawing as an element of HTML, whose text stays text."""
    figure, text = _figure(selection, picked), StringIO()
    with _same_each_time(), mpl.rc_context({"svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return text.getvalue()[text.getvalue().index("<svg") :]


@contextmanager
def _same_each_time() -> Iterator[None]:
    """The same picture is the same file: no dates, no random ids."""
    with mpl.rc_context({"svg.hashsalt": "ensembled"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that the font does not have
        yield


def _figure(selection: Selection, picked: Point | None) -> Figure:
    members = min(len(selection.diversity.members), _MOST_NAMED)
    side = max(4.5, 1.5 + 0.18 * members)
    figure = Figure(figsize=(6 + side, 4.5 + side), layout="constrained")
    (front, gain), (disagreement, errors) = figure.subplots(
        2, 2, width_ratios=[1, 1], height_ratios=[4.5, side]
    )
    _draw_front(front, selection, picked)
    _draw_gain(gain, selection)
    names, diversity = selection.diversity.members, selection.diversity
    _draw_pairs(disagreement, names, diversity.disagreement, "pairwise disagreement", "viridis")
    _draw_pairs(errors, names, diversity.error_correlation, "correlation of errors", "magma")
    return figure


def _draw_front(axes: Axes, selection: Selection, picked: Point | None) -> None:
    _draw_points(axes, selection.front, "o-", "front", "tab:blue")
    for name, point in selection.baselines.items():
        label, marker = _BASELINES.get(name, (name, "x"))
        if point is not None:
            _draw_points(axes, [point], marker, label, "0.45")
    for label, one, size in (("knee", selection.knee, 12), ("picked", picked, 16)):
        if one is not None:
            at = [one.cost.rows_per_s], [one.quality]
            axes.plot(*at, "o", markersize=size, fillstyle="none", label=label, color="tab:red")
    axes.set_xscale("log")
    axes.set_xlabel("rows/s at the best allocation")
    axes.set_ylabel(f"{selection.measure}, {selection.judged_on} held-out rows", parse_math=False)
    if not selection.higher_is_better:
        axes.invert_yaxis()
    axes.legend(fontsize=8)
    axes.set_title("what is worth serving (bars: bootstrap intervals of 95%)", fontsize=10)


def _draw_points(axes: Axes, points: Sequence[Point], style: str, label: str, color: str) -> None:
    quality = np.array([one.quality for one in points])
    intervals = np.array([one.quality_interval for one in points]).T
    below, above = np.maximum(quality - intervals[0], 0), np.maximum(intervals[1] - quality, 0)
    axes.errorbar(
        [one.cost.rows_per_s for one in points],
        quality,
        yerr=[below, above],
        fmt=style,
        label=label,
        color=color,
        capsize=2,
        linewidth=1,
        markersize=5,
    )


def _draw_gain(axes: Axes, selection: Selection) -> None:
    gain = selection.diversity.gain
    axes.plot(range(1, len(gain) + 1), [quality for _, quality in gain], "o-", markersize=4)
    if len(gain) <= _MOST_NAMED:
        axes.set_xticks(range(1, len(gain) + 1))
        axes.set_xticklabels([name for name, _ in gain], rotation=90, fontsize=7, parse_math=False)
    axes.set_ylabel(selection.measure, parse_math=False)
    axes.set_title("members mixed, best next one first", fontsize=10)


def _draw_pairs(
    axes: Axes, names: Sequence[str], values: Sequence[Sequence[float]], title: str, colors: str
) -> None:
    image = axes.imshow(np.array(values, np.float64), cmap=colors)
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(title, fontsize=10)
    if len(names) <= _MOST_NAMED:
        places = range(len(names))
        axes.set_xticks(places)
        axes.set_xticklabels(names, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(places)
        axes.set_yticklabels(names, fontsize=7, parse_math=False)
