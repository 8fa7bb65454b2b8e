"""The lengths of rows of members with variable dimensions: where to measure, and what to expect.

Runs in the process that profiles; pure. Members flow in, the sizes of their length classes and the
share of the rows in each flow out; later measured latencies flow in, expected ones flow out.

A batch holds rows of one class and is padded to its size at most, so the expected latency of a
batch is the mean of the classes' latencies, weighted by their shares of the rows.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from server.members.inspect import InspectedMember
from server.members.lengths import length_classes

__all__ = ["MeasuredLength", "RowLength", "expected_factor", "measured_lengths", "row_lengths"]

#: Lengths without a configured mix: log-normal. The median is a part of the largest size, a small
#: one of texts, whose limit has to do for tokens of many bytes.
_MEDIAN_SHARE, _TEXT_MEDIAN_SHARE, _SIGMA = 1 / 8, 1 / 64, 0.8
#: At how many sizes below the largest a member is measured; others are interpolated.
_MOST_MEASURED = 3


class RowLength(NamedTuple):
    """A length class: `size` is that of the first variable dimension.

    `sizes` are those of all, in the order of the arena's symbols; `share` is that of all rows.
    """

    size: int
    sizes: tuple[int, ...]
    share: float


class MeasuredLength(msgspec.Struct, frozen=True):
    """Seconds that a batch takes whose rows are of the sizes of a class."""

    batch: int
    size: int
    latency_s: float


def row_lengths(member: InspectedMember, symbols: Sequence[str]) -> tuple[RowLength, ...]:
    """Return the length classes of a member, ascending; none if its sizes are fixed.

    `symbols` are those of its arena.
    """
    if not symbols:
        return ()
    classes = [tuple(sizes[symbol] for symbol in symbols) for sizes in length_classes([member])]
    ascending = classes[::-1]
    median_share = _TEXT_MEDIAN_SHARE if symbols[0].endswith(".bytes") else _MEDIAN_SHARE
    shares = _shares([sizes[0] for sizes in ascending], member.config.lengths, median_share)
    return tuple(
        RowLength(sizes[0], sizes, share) for sizes, share in zip(ascending, shares, strict=True)
    )


def measured_lengths(lengths: Sequence[RowLength]) -> list[RowLength]:
    """Return the classes at which to measure, ascending: the largest, and some that are smaller."""
    step = max((len(lengths) - 1) / _MOST_MEASURED, 1.0)
    chosen = {round(step * number) for number in range(_MOST_MEASURED)}
    return [one for i, one in enumerate(lengths) if i in chosen or i == len(lengths) - 1]


def expected_factor(
    lengths: Sequence[RowLength],
    measured: Sequence[MeasuredLength],
    latencies_s: Mapping[int, float],
    batch: int,
) -> float:
    """Return the latency of a batch of the expected mix, relative to that in `latencies_s`.

    Those are by batch size, and of the largest rows (or of a model's own example). Without
    measurements, time is taken as proportional to the size. Between measured sizes, and
    between measured batches, it is interpolated; beyond them it stays.
    """
    if not measured:
        return sum(one.share * one.size for one in lengths) / lengths[-1].size
    curves: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for one in measured:
        curves[one.batch][one.size] = one.latency_s
    factors = {
        known: sum(one.share * _interpolated(curve, one.size) for one in lengths)
        / latencies_s[known]
        for known, curve in curves.items()
    }
    return _interpolated(factors, batch)


def _interpolated(points: Mapping[int, float], at: int) -> float:
    """A piecewise linear function, constant beyond its points."""
    known = sorted(points)
    number = bisect_left(known, at)
    if number == len(known):
        return points[known[-1]]
    if number == 0 or known[number] == at:
        return points[known[number]]
    low, high = known[number - 1], known[number]
    return points[low] + (points[high] - points[low]) * (at - low) / (high - low)


def _shares(sizes: Sequence[int], mix: Mapping[int, float], median_share: float) -> list[float]:
    """The share of the rows in each class, by its size, ascending."""
    if mix:
        shares = [0.0] * len(sizes)
        for length, share in mix.items():
            shares[min(bisect_left(sizes, length), len(sizes) - 1)] += share
        return [share / sum(shares) for share in shares]
    median = sizes[-1] * median_share
    below = [_normal_cdf(math.log(size / median) / _SIGMA) for size in sizes[:-1]]
    return [high - low for low, high in zip([0.0, *below], [*below, 1.0], strict=True)]


def _normal_cdf(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2
