"""Shows how a library grows: a line that is redrawn on a terminal, else a line now and then.

Runs in the command. The calls of `OnProgress` flow in, text on stderr flows out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from server.growth.grower import Growth, OnProgress

__all__ = ["describe", "progress_on_stderr"]

#: In a log, a line is written when a trial has ended, but not more often than this.
_LINE_S = 5.0


@contextmanager
def progress_on_stderr(trials: int | None, budget_s: float | None) -> Iterator[OnProgress]:
    """Yield a callback that shows the progress of `grow` towards these ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, trials, budget_s)
        return
    bar = Progress(
        TextColumn("growing"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task("", total=1.0)

    def draw(growth: Growth) -> None:
        text = describe(growth, trials, budget_s)
        bar.update(task, description=text, completed=_share(growth, trials, budget_s))

    with bar:
        yield draw


def describe(growth: Growth, trials: int | None, budget_s: float | None) -> str:
    """Return the state in a line: trials by outcome, the best, members, and the time left."""
    total = "" if trials is None else f" of {trials}"
    parts = [
        f"{growth.settled}{total} trials ({growth.pruned} pruned, {growth.failed} failed)",
        f"{growth.running} running",
        f"{len(growth.kept)} members",
    ]
    if growth.kept:
        parts.insert(2, f"best {growth.kept[0][1]:.6g}")
    share = _share(growth, trials, budget_s)
    if 0 < share < 1:
        parts.append(f"{_duration(growth.spent_s / share - growth.spent_s)} left")
    return ", ".join(parts)


def _share(growth: Growth, trials: int | None, budget_s: float | None) -> float:
    """Which share of the way to the nearer end is done."""
    of_trials = growth.settled / trials if trials else 0.0
    of_time = growth.spent_s / budget_s if budget_s else 0.0
    return min(1.0, max(of_trials, of_time))


def _lines(console: Console, trials: int | None, budget_s: float | None) -> Callable[..., None]:
    said, at = 0, -_LINE_S

    def say(growth: Growth) -> None:
        nonlocal said, at
        now = time.monotonic()
        if growth.settled != said and now - at >= _LINE_S:
            said, at = growth.settled, now
            text = describe(growth, trials, budget_s)
            console.print(f"growing: {text}", markup=False, highlight=False, soft_wrap=True)

    return say


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
