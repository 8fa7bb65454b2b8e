"""Histograms as Prometheus has them: a bisection and two additions per observation.

Runs in the front-end, under `server.engine.statistics`; pure.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

import numpy as np
import numpy.typing as npt

__all__ = ["BATCH_ROWS", "LAGS_S", "TIMES_S", "Histogram"]

#: From a header that is looked up to a deadline of half a minute.
TIMES_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
BATCH_ROWS = tuple(float(1 << power) for power in range(13))
LAGS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Histogram:
    """Counts observations by the least bound that is not below them.

    Args:
        bounds: ascending.

    Attributes:
        sum: of the observations.
    """

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: tuple[float, ...] = TIMES_S) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: npt.NDArray[np.float64]) -> None:
        """Count many, [n]: quicker than one by one from a dozen on."""
        places = np.searchsorted(self.bounds, values)
        for place, more in enumerate(np.bincount(places).tolist()):
            self._counts[place] += more
        self.sum += float(values.sum())

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def cumulated(self) -> list[int]:
        """For each bound how many were not above it, and for no bound how many there were."""
        return list(accumulate(self._counts))
