"""A line that tells how a test goes, on stderr, when that is a terminal. Runs in the parent."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from ensembled_client.load.job import Progress
from ensembled_client.load.report import progress_line

__all__ = ["Board", "progress_display"]


class Board:
    """What all processes have told last, as text.

    Args:
        clock_s: seconds.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._last: dict[int, Progress] = {}
        self._started_s = 0.0
        self._before = (0.0, 0)
        self._rate = 0.0

    def update(self, progress: Progress) -> None:
        """A process has told how it goes; the first time is when the clock starts."""
        if not self._last:
            self._started_s = self._clock_s()
            self._before = (self._started_s, 0)
        self._last[progress.index] = progress

    def text(self) -> str:
        """How it goes with all of them together."""
        now_s = self._clock_s()
        fine = sum(one.fine for one in self._last.values())
        if now_s - self._before[0] >= 1:
            self._rate = (fine - self._before[1]) / (now_s - self._before[0])
            self._before = (now_s, fine)
        line = progress_line(
            now_s - self._started_s,
            fine,
            sum(one.failed for one in self._last.values()),
            sum(one.in_flight for one in self._last.values()),
            self._rate,
        )
        recent = sorted(ns for one in self._last.values() for ns in one.recent_ns)
        if not recent:
            return line
        p50, p99 = recent[len(recent) // 2], recent[len(recent) * 99 // 100]
        return f"{line}  p50 {p50 / 1e6:.3g}, p99 {p99 / 1e6:.3g} ms"


@contextlib.contextmanager
def progress_display(title: str, *, wanted: bool) -> Iterator[Callable[[Progress], None] | None]:
    """What to call with progress, None if nobody would see it."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415  (not needed without a terminal)
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    board = Board()
    console = Console(stderr=True)
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(progress: Progress) -> None:
            board.update(progress)
            text = Text(title + board.text(), no_wrap=True, overflow="ellipsis")
            live.update(text, refresh=True)

        yield show
