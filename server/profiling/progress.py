"""Shows the progress of profiling: a bar on a terminal, a line per member in a log.

Runs in the process that profiles; the calls of `OnProgress` flow in, text on stderr or lines for
the log flow out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.profiling import OnProgress

__all__ = ["progress_on_stderr"]


@contextmanager
def progress_on_stderr(
    log: Callable[[str], None] | None = None, *, doing: str = "profiling"
) -> Iterator[OnProgress]:
    """Yield a callback that shows the progress of `profile_members`, if anything is measured.

    Or of something else that is told in the same way. Unless stderr is a terminal, `log` gets a
    line per member; without it, stderr does.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        plain = partial(console.print, markup=False, highlight=False, soft_wrap=True)
        yield _plain_lines(log or plain, doing)
        return
    bar = Progress(
        TextColumn(doing),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task("", total=None)

    def draw(what: str, done: int, total: int) -> None:
        bar.start()
        bar.update(task, description=what, completed=done, total=total)

    try:
        yield draw
    finally:
        if bar.live.is_started:  # stopping prints a line, even of nothing
            bar.stop()


def _plain_lines(log: Callable[[str], None], doing: str) -> OnProgress:
    """One line per member; its batch sizes would be too many for a log."""
    logged: set[int] = set()
    last = ""

    def on_progress(what: str, done: int, total: int) -> None:
        nonlocal last
        name = what.partition(":")[0]
        if done < total and done not in logged and name != last:
            logged.add(done)
            last = name
            log(f"{doing} {done + 1} of {total}: {name}")

    return on_progress
