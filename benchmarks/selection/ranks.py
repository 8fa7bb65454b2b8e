"""Whether methods differ over many tasks: mean ranks, and how far apart they must be.

Pure, with SciPy. Qualities flow in, ranks and the critical difference flow out. Source: Demšar,
"Statistical Comparisons of Classifiers over Multiple Data Sets" (Journal of Machine Learning
Research 7, 2006): the Friedman test, and the critical difference of the Nemenyi test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from server.calibration.metrics import Floats

__all__ = ["Ranks", "draw_ranks", "rank"]

_LEVEL = 0.05


@dataclass(frozen=True)
class Ranks:
    """The mean rank of each method over the tasks, 1 is the best.

    Attributes:
        p: that such ranks appear although no method differs (Friedman).
        critical_difference: mean ranks that are closer do not differ, at 5% (Nemenyi).
    """

    methods: tuple[str, ...]
    mean: tuple[float, ...]
    p: float
    critical_difference: float


def rank(methods: Sequence[str], qualities: Floats) -> Ranks:
    """Rank methods by qualities [tasks, methods], the higher the better; ties share their ranks."""
    tasks, count = qualities.shape
    ranks = stats.rankdata(-qualities, axis=1).mean(axis=0)
    p = float(stats.friedmanchisquare(*qualities.T).pvalue)
    spread = stats.studentized_range.ppf(1 - _LEVEL, count, np.inf) / np.sqrt(2)
    difference = float(spread * np.sqrt(count * (count + 1) / (6 * tasks)))
    order = np.argsort(ranks, kind="stable")
    return Ranks(
        tuple(methods[i] for i in order),
        tuple(float(ranks[i]) for i in order),
        p,
        difference,
    )


def draw_ranks(path: Path, ranks: Ranks, title: str) -> None:
    """Draw a critical-difference diagram: bars join what does not differ."""
    count = len(ranks.methods)
    figure = Figure(figsize=(7, 1.2 + 0.35 * count), layout="tight")
    axes = figure.subplots()
    for place, (name, mean) in enumerate(zip(ranks.methods, ranks.mean, strict=True)):
        axes.plot([mean, mean, count + 0.3], [0, -place - 1, -place - 1], color="0.5", linewidth=1)
        axes.text(count + 0.35, -place - 1, f"{name} ({mean:.2f})", va="center", fontsize=9)
    for row, (first, last) in enumerate(_alike(ranks)):
        axes.plot(
            [first - 0.03, last + 0.03], [-0.25 - 0.2 * row] * 2, color="tab:blue", linewidth=4
        )
    axes.plot([1, 1 + ranks.critical_difference], [0.7, 0.7], color="black")
    axes.text(1, 0.85, f"critical difference {ranks.critical_difference:.2f}", fontsize=8)
    axes.set_xlim(0.8, count + 2.5)
    axes.set_ylim(-count - 1.5, 1.5)
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    axes.spines["top"].set_position(("data", 0))
    axes.xaxis.tick_top()
    axes.set_xticks(range(1, count + 1))
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _alike(ranks: Ranks) -> list[tuple[float, float]]:
    """The longest runs of mean ranks that are no further apart than the critical difference."""
    runs: list[tuple[float, float]] = []
    for first in ranks.mean:
        last = max(one for one in ranks.mean if one <= first + ranks.critical_difference)
        if last > first and not any(a <= first and last <= b for a, b in runs):
            runs.append((first, last))
    return runs
