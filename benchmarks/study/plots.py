"""Draws the placement study: SVG files that are the same, byte for byte, for the same study.

Runs in the study's process; a `Study` flows in, files flow out. It needs matplotlib (the extra
`plot`), which nothing else here does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from benchmarks.study.outcomes import PATIENT_GREEDY, SOLVERS, Outcome, Study

__all__ = ["PLOTS", "write_plots"]

#: Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = dict(zip(SOLVERS, ("#999999", "#E69F00", "#56B4E9", "#0072B2"), strict=True)) | {
    PATIENT_GREEDY: "#009E73"
}
_MARKERS = dict(zip(SOLVERS, ("o", "s", "^", "D"), strict=True))
_BOUND: dict[str, Any] = {
    "color": "#D55E00",
    "linestyle": "--",
    "linewidth": 1.2,
    "label": "proven bound",
}
_STYLE: Any = {
    "svg.hashsalt": "placement-study",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
}
_ESTIMATED = "estimated profiles"


def write_plots(study: Study, directory: Path) -> list[Path]:
    """Write every plot, and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    with mpl.rc_context(_STYLE):
        for name, draw in PLOTS.items():
            file = directory / f"{name}.svg"
            # Without a date and with a fixed salt for its ids the file says only what is drawn.
            draw(study).savefig(file, metadata={"Date": None})
            files.append(file)
    return files


def _sweep(study: Study) -> Figure:
    sizes = study.sizes
    columns = min(len(sizes), 2)
    rows = -(-len(sizes) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, size in zip(axes.flat, sizes, strict=False):
        outcomes = study.sweep_of(size)
        counts = [len(one.devices) for one in outcomes]
        for solver in SOLVERS:
            rates = [_or_gap(one.rate(solver)) for one in outcomes]
            place.plot(
                counts, rates, _MARKERS[solver], ls="-", ms=3.5, lw=1.2,
                color=_COLOURS[solver], label=solver,
            )  # fmt: skip
        place.plot(counts, [_or_gap(one.bound) for one in outcomes], **_BOUND)
        place.set_title("1 network" if size == 1 else f"{size} networks")
        place.set_xlabel("V100 GPUs")
        place.set_ylabel("rows/s")
        place.set_ylim(bottom=0)
        place.set_xticks([1, 4, 8, 12, 16])
    axes.flat[0].legend(frameon=False)
    figure.suptitle(f"Throughput by number of GPUs ({_ESTIMATED})")
    return figure


def _twelve(study: Study) -> Figure:
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    axes = figure.subplots()
    bars = ("best of one batch size", *(one.solver for one in study.twelve[0].solutions))
    width = 0.8 / len(bars)
    for group, one in enumerate(study.twelve):
        left = group - 0.4 + width / 2
        for place, name in enumerate(bars):
            rate = _best_naive(one) if place == 0 else one.rate(name)
            colour = "#CC79A7" if place == 0 else _COLOURS[name]
            label = name if group == 0 else None
            axes.bar(left + place * width, rate or 0, width * 0.92, color=colour, label=label)
            if rate is None:
                axes.text(left + place * width, 2, "✗", ha="center", color=colour)
        if one.bound is not None:
            line = _BOUND if group == 0 else _BOUND | {"label": None}
            axes.plot([group - 0.42, group + 0.42], [one.bound] * 2, **line)
    axes.set_xticks(range(len(study.twelve)), [_gib(one.memory_bytes) for one in study.twelve])
    axes.set_xlabel("memory for instances on each GPU")
    axes.set_ylabel("rows/s")
    # Room for the legend above the highest bar.
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, ncols=3, loc="upper center")
    axes.set_title(f"12 networks on 4 V100, ✗ finds no placement ({_ESTIMATED})")
    return figure


def _one(study: Study) -> Figure:
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    axes = figure.subplots()
    names = [one.solver for one in reversed(study.one.solutions)]
    rates = [study.one.rate(name) or 0 for name in names]
    axes.barh(names, rates, color=[_COLOURS[name] for name in names], height=0.7)
    for place, rate in enumerate(rates):
        axes.text(rate, place, f" {rate:,.0f}", va="center")
    if study.one.bound is not None:
        axes.axvline(study.one.bound, **_BOUND)
    axes.set_xlim(right=1.15 * max(rates))
    axes.set_xlabel("rows/s (dashed: proven bound)")
    axes.grid(axis="y", visible=False)
    axes.set_title(f"{study.one.members[0]} on {len(study.one.devices)} V100 ({_ESTIMATED})")
    return figure


def _matrix(study: Study) -> Figure:
    outcome = study.twelve[0]
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    axes = figure.subplots()
    solver = "exact" if outcome.solution("exact").matrix else "greedy"
    _heat_map(axes, outcome, outcome.solution(solver).matrix or ())
    axes.set_title(f"Batch sizes of the {solver} matrix, {outcome.title} ({_ESTIMATED})")
    return figure


def _heat_map(axes: Axes, outcome: Outcome, matrix: tuple[tuple[int, ...], ...]) -> None:
    # None is drawn as nothing: a cell without an instance stays white.
    cells = [[float(batch) if batch else float("nan") for batch in row] for row in matrix]
    axes.imshow(cells, norm=LogNorm(1, 512), cmap="Blues", aspect="auto")
    for device, row in enumerate(matrix):
        for member, batch in enumerate(row):
            if batch:
                colour = "white" if batch > 32 else "black"
                axes.text(member, device, str(batch), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(outcome.members)), outcome.members, rotation=35, ha="right")
    axes.set_yticks(range(len(outcome.devices)), outcome.devices)
    axes.grid(visible=False)


def _best_naive(outcome: Outcome) -> float | None:
    rates = [one.rows_per_s for one in outcome.naive if one.rows_per_s is not None]
    return max(rates, default=None)


def _or_gap(rate: float | None) -> float:
    return float("nan") if rate is None else rate


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.3g} GiB"


#: By file name.
PLOTS: dict[str, Callable[[Study], Figure]] = {
    "sweep": _sweep,
    "twelve": _twelve,
    "one": _one,
    "matrix": _matrix,
}
