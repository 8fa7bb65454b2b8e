"""What is said again and again is said a few times, and then how often it was left out.

Used in every process of the server; pure but for the clock. Bad input or a crowd can make the same
line of code complain thousands of times a second: that must fill neither the disk nor the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["FloodFilter"]

#: So many complaints from one place in the code are let through in so long.
_AT_ONCE = 20
_WINDOW_S = 10.0


@dataclass(slots=True)
class _Place:
    """A line of code that complains: when its window began, and what happened in it."""

    began: float
    passed: int = 0
    left_out: int = 0


class FloodFilter(logging.Filter):
    """Lets 20 warnings or errors from one place in the code through in ten seconds.

    The next one that passes has `left_out`: how many did not. What is less severe always passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        key = record.pathname, record.lineno
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place(now)
        if now - place.began >= _WINDOW_S:
            place.began, place.passed = now, 0
        if place.passed >= _AT_ONCE:
            place.left_out += 1
            return False
        place.passed += 1
        if place.left_out:
            record.left_out, place.left_out = place.left_out, 0
        return True
