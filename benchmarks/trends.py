"""Whether something grows: the slope of samples over time, with its confidence interval. Pure.

Samples that follow each other closely are not independent, so they are first averaged over blocks;
the slope is that of ordinary least squares through the blocks' means, the interval is Student's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

__all__ = ["Trend", "trend"]

#: Student's t for 95%, two-sided, by degrees of freedom from 1; beyond, the last is good enough.
_T = (
    (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    + (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
    + (2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)
)


class Trend(msgspec.Struct, frozen=True):
    """A line through samples.

    Attributes:
        per_hour: its slope, in units per hour.
        low, high: the slope's 95% confidence interval.
        mean: of the samples.
        blocks: how many means it goes through.
    """

    per_hour: float
    low: float
    high: float
    mean: float
    blocks: int

    @property
    def grows(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low > 0


def trend(groups: Sequence[Sequence[tuple[float, float]]], block_s: float) -> Trend | None:
    """The slope that groups of samples (seconds, value) have in common; each has its own level.

    Args:
        groups: e.g. one per life of a process; samples in the order of their times.
        block_s: length of a block in seconds.

    Returns:
        The trend; None if there are too few blocks, which takes two in a group and three in all.
    """
    x: list[float] = []
    y: list[float] = []
    means: list[float] = []
    used = 0
    for group in groups:
        blocks = _blocks(group, block_s)
        if len(blocks) > 1:
            used += 1
            hours, values = zip(*blocks, strict=True)
            means += values
            x += _centred(hours)
            y += _centred(values)
    freedom = len(x) - used - 1
    if freedom < 1:
        return None
    spread = math.fsum(a * a for a in x)
    slope = math.fsum(a * b for a, b in zip(x, y, strict=True)) / spread
    left = math.fsum((b - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    margin = _T[min(freedom, len(_T)) - 1] * math.sqrt(left / freedom / spread)
    return Trend(slope, slope - margin, slope + margin, statistics.fmean(means), len(x))


def _blocks(samples: Sequence[tuple[float, float]], block_s: float) -> list[tuple[float, float]]:
    """The means of the samples in each block: hours, value."""
    blocks: dict[int, list[tuple[float, float]]] = {}
    for second, value in samples:
        number = int((second - samples[0][0]) / block_s)
        blocks.setdefault(number, []).append((second / 3600, value))
    return [
        (statistics.fmean(hour for hour, _ in block), statistics.fmean(value for _, value in block))
        for block in blocks.values()
    ]


def _centred(values: Sequence[float]) -> list[float]:
    mean = statistics.fmean(values)
    return [value - mean for value in values]
