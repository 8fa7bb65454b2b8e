"""What is known of a roll-out: how both versions do, and how far they agree.

Runs in the front-end; pure. Answers, errors and comparisons flow in; the judge and the metrics read
the figures.
"""

from __future__ import annotations

import math
import time
from typing import Any

from server.engine.statistics import Histogram
from server.rollout.agreement import Agreement

__all__ = ["RolloutFigures", "VersionFigures"]

#: Of a time whose logarithm is taken: a clock may stand still.
_LEAST_S = 1e-9


class VersionFigures:
    """What one version has done since the roll-out began.

    Attributes:
        answered: requests.
        rows: of these.
        errors: requests that failed for a reason of its own: a member failed, too few of them were
            up, the deadline passed, or there was a fault.
        times: from when the last job of an answer was handed to a worker until it was combined, in
            seconds: without the waits, which depend on the load and on the priority.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.rows = 0
        self.errors = 0
        self.times = Histogram()
        self._logs = self._squares = 0.0

    @property
    def requests(self) -> int:
        """Those with an outcome."""
        return self.answered + self.errors

    def answer(self, rows: int, seconds: float) -> None:
        """Count an answer."""
        self.answered += 1
        self.rows += rows
        self.times.observe(seconds)
        log = math.log(max(seconds, _LEAST_S))
        self._logs += log
        self._squares += log * log

    def log_time(self) -> tuple[float, float]:
        """The mean of the logarithms of the times, and its squared standard error.

        At least 2 answers are needed.
        """
        n = self.answered
        mean = self._logs / n
        variance = max(self._squares - n * mean * mean, 0.0) / (n - 1)
        return mean, variance / n

    def describe(self) -> dict[str, Any]:
        """The figures as JSON."""
        mean_ms = 1000 * self.times.sum / self.answered if self.answered else None
        return {
            "requests": self.requests,
            "rows": self.rows,
            "errors": self.errors,
            "mean_ms": mean_ms,
        }


class RolloutFigures:
    """Both versions.

    Attributes:
        began: Unix time.
        compared: requests that both versions have answered, in a shadow.
        compared_rows, disagreeing_rows: of these.
        difference: the largest between two numbers.
        dropped: requests that were not copied to a shadow, because the server was busy.
    """

    def __init__(self) -> None:
        self.began = time.time()
        self.present = VersionFigures()
        self.new = VersionFigures()
        self.compared = 0
        self.compared_rows = 0
        self.disagreeing_rows = 0.0
        self.difference = 0.0
        self.dropped = 0

    def agree(self, found: Agreement) -> None:
        """Count a comparison."""
        self.compared += 1
        self.compared_rows += found.rows
        self.disagreeing_rows += found.disagreeing
        self.difference = max(self.difference, found.difference)

    def describe(self) -> dict[str, Any]:
        """The figures as JSON."""
        return {
            "began": round(1000 * self.began),
            "present": self.present.describe(),
            "new": self.new.describe(),
            "compared_requests": self.compared,
            "compared_rows": self.compared_rows,
            "disagreeing_rows": self.disagreeing_rows,
            "max_difference": self.difference,
            "dropped_copies": self.dropped,
        }
