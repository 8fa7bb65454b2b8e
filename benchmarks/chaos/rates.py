"""How many answers came when, and from that: when throughput was back after a fault. Pure."""

from __future__ import annotations

import statistics
from collections import Counter

__all__ = ["Rates"]

_STEP_S = 0.1
#: Steps of a window: a rate is that of a window.
_WINDOW = 5


class Rates:
    """Answers in steps of a tenth of a second."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, now: float, answers: int) -> None:
        """Answers that came."""
        self._counts[int(now / _STEP_S)] += answers

    def _window(self, step: int) -> int:
        return sum(self._counts[step + i] for i in range(_WINDOW))

    def typical(self, start: float, stop: float) -> float:
        """The median of the windows between two times, answers per second; 0 without a window."""
        steps = range(int(start / _STEP_S) + 1, int(stop / _STEP_S) - _WINDOW)
        windows = [self._window(step) for step in steps]
        return statistics.median(windows) / (_WINDOW * _STEP_S) if windows else 0.0

    def back_after(self, fault: float, stop: float, least: float) -> float | None:
        """How long after a fault the rate was back, 0 if it never fell.

        Args:
            fault: when it happened.
            stop: up to when answers were counted.
            least: answers per second that are enough.

        Returns:
            Seconds from the fault to the first full window that follows a poor one; None if there
            is none before `stop`.
        """
        first, last = int(fault / _STEP_S) + 1, int(stop / _STEP_S) - _WINDOW
        poor = False
        for step in range(first, last):
            enough = self._window(step) >= least * _WINDOW * _STEP_S
            if poor and enough:
                return step * _STEP_S - fault
            poor = poor or not enough
        return None if poor else 0.0
