"""`python -m benchmarks.selection`: selection against its baselines on small public tasks.

For each fold of each task a library of some thirty-five members is trained and timed; sets are
selected on validation rows and judged on test rows, which nothing is chosen by. A member that fails
is counted, and is in no method's library.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.selection.library import train
from benchmarks.selection.methods import FoldOutcome, compare
from benchmarks.selection.ranks import Ranks, draw_ranks, rank
from benchmarks.selection.tasks import TASKS, folds

_METHODS = ("knee", "best", "caruana", "top_k", "best_single", "all")
_FRONTS = ("ours", "caruana", "top_k")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="of all folds, divided anew")
    parser.add_argument("--output", type=Path, help="directory for results and diagrams")
    options = parser.parse_args()
    if options.folds < 2 or options.repeats < 1:
        sys.exit("error: --folds is 2 or more, --repeats 1 or more")
    outcomes = _run(options.tasks, options.folds, options.repeats)
    print("\n".join(_page(outcomes)))
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        document = msgspec.json.format(msgspec.json.encode(outcomes), indent=1)
        (options.output / "selection.json").write_bytes(document)
        for what, ranks in _ranks(outcomes).items():
            draw_ranks(options.output / f"ranks-{what}.svg", ranks, f"mean ranks by {what}")


def _run(tasks: Sequence[str], count: int, repeats: int) -> list[FoldOutcome]:
    outcomes = []
    for name in tasks:
        task = TASKS[name]()
        for number, fold in enumerate(folds(task, count, repeats)):
            outcomes.append(compare(task, fold, number, train(task, fold)))
            print(f"{name}, fold {number + 1} of {count * repeats}", file=sys.stderr, flush=True)
    return outcomes


def _page(outcomes: Sequence[FoldOutcome]) -> list[str]:
    """The results as Markdown: all tasks, the means, ranks and failures."""
    lines = [
        "| task | " + " | ".join(f"{name} " for name in _METHODS) + "| covered: "
        + " | ".join(_FRONTS) + " |",
        "| --- |" + " ---: |" * (len(_METHODS) + len(_FRONTS)),
    ]  # fmt: skip
    for task in dict.fromkeys(one.task for one in outcomes):
        own = [one for one in outcomes if one.task == task]
        cells = [_cell(own, name) for name in _METHODS]
        cells += [f"{np.mean([one.covered[name] for one in own]):.3f}" for name in _FRONTS]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    lines.append("")
    for what, ranks in _ranks(outcomes).items():
        named = zip(ranks.methods, ranks.mean, strict=True)
        lines.append(
            f"Mean ranks by {what}: " + ", ".join(f"{name} {mean:.2f}" for name, mean in named)
            + f" (critical difference {ranks.critical_difference:.2f}, p = {ranks.p:.2g})"
        )  # fmt: skip
    lines += ["", _wins(outcomes), _failures(outcomes)]
    return lines


def _cell(outcomes: Sequence[FoldOutcome], method: str) -> str:
    """Mean quality, and rows/s as a multiple of those of all members."""
    quality = np.mean([abs(one.methods[method].quality) for one in outcomes])
    speeds = [one.methods[method].rows_per_s / one.methods["all"].rows_per_s for one in outcomes]
    return f"{quality:.4g} ({np.exp(np.mean(np.log(speeds))):.3g} x)"


def _ranks(outcomes: Sequence[FoldOutcome]) -> dict[str, Ranks]:
    """Ranks of the methods by quality and by rows/s, and of the fronts by what they cover."""
    tasks = list(dict.fromkeys(one.task for one in outcomes))
    if len(tasks) < 2:
        return {}

    def table(names: Sequence[str], values: dict[str, list[list[float]]]) -> Ranks:
        return rank(names, np.array([np.mean(values[task], axis=0) for task in tasks]))

    qualities: dict[str, list[list[float]]] = {task: [] for task in tasks}
    speeds: dict[str, list[list[float]]] = {task: [] for task in tasks}
    covered: dict[str, list[list[float]]] = {task: [] for task in tasks}
    for one in outcomes:
        qualities[one.task].append([one.methods[name].quality for name in _METHODS])
        speeds[one.task].append([one.methods[name].rows_per_s for name in _METHODS])
        covered[one.task].append([one.covered[name] for name in _FRONTS])
    return {
        "quality": table(_METHODS, qualities),
        "rows per second": table(_METHODS, speeds),
        "hypervolume": table(_FRONTS, covered),
    }


def _wins(outcomes: Sequence[FoldOutcome]) -> str:
    tasks = list(dict.fromkeys(one.task for one in outcomes))
    won = []
    for task in tasks:
        means = {
            name: np.mean([one.covered[name] for one in outcomes if one.task == task])
            for name in _FRONTS
        }
        if means["ours"] > max(means["caruana"], means["top_k"]):
            won.append(task)
    lost = ", ".join(task for task in tasks if task not in won) or "none"
    return (
        f"The front covers more than those of Caruana and top-k on {len(won)} of {len(tasks)} "
        f"tasks (not on: {lost})."
    )


def _failures(outcomes: Sequence[FoldOutcome]) -> str:
    counted = Counter(name for one in outcomes for name in one.failed)
    trained = sum(one.members + len(one.failed) for one in outcomes)
    named = ", ".join(f"{name} {times} times" for name, times in counted.items()) or "none"
    return f"Of {trained} trained members {counted.total()} failed: {named}."


main()
