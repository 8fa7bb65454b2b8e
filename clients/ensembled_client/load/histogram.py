"""Durations in an HDR histogram: cheap to record, mergeable between processes. No I/O.

Three significant digits from 0.1 microseconds to an hour: a quantile is at most 0.1% too high.
The library's own minimum is wrong after a merge into an empty histogram, and it has no exact mean:
both are kept here. Recording goes into a dictionary by the lowest value of the histogram's bucket,
and from there into the histogram when it is asked: several times cheaper, and the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

__all__ = ["Durations", "EncodedDurations"]

_LOWEST_NS = 100
_HIGHEST_NS = 3_600 * 1_000_000_000
_DIGITS = 3
# What the library makes of these: buckets of so many bits, in units of so many bits.
_BUCKET_BITS = 11
_UNIT_BITS = 6


@dataclass(frozen=True)
class EncodedDurations:
    """Durations on their way between processes.

    Attributes:
        histogram: base64, HDR histogram V2.
        total_ns: their sum.
        least_ns: the shortest; 0 if there is none.
    """

    histogram: bytes
    total_ns: int
    least_ns: int


class Durations:
    """Many durations, recorded in nanoseconds and told in milliseconds."""

    __slots__ = ("_counts", "_histogram", "_least_ns", "_total_ns")

    def __init__(self) -> None:
        self._histogram = HdrHistogram(_LOWEST_NS, _HIGHEST_NS, _DIGITS)
        self._counts: dict[int, int] = {}
        self._total_ns = 0
        self._least_ns = _HIGHEST_NS

    def record(self, duration_ns: int) -> None:
        """Count a duration; what is out of range counts as the nearest that is in it."""
        if not 0 <= duration_ns <= _HIGHEST_NS:
            duration_ns = 0 if duration_ns < 0 else _HIGHEST_NS
        # A bucket is as wide as the bits that lie below the first eleven, and 64 ns at least.
        shift = duration_ns.bit_length() - _BUCKET_BITS
        shift = max(shift, _UNIT_BITS)
        bucket_ns = duration_ns >> shift << shift
        self._counts[bucket_ns] = self._counts.get(bucket_ns, 0) + 1
        self._total_ns += duration_ns
        self._least_ns = min(self._least_ns, duration_ns)

    def _flushed(self) -> HdrHistogram:
        """The histogram, with all that was recorded in it."""
        for bucket_ns, count in self._counts.items():
            self._histogram.record_value(bucket_ns, count)
        self._counts.clear()
        return self._histogram

    def encode(self) -> EncodedDurations:
        """What another process needs to merge it."""
        return EncodedDurations(
            self._flushed().encode(), self._total_ns, self._least_ns if self.count else 0
        )

    @classmethod
    def merged(cls, parts: Sequence[EncodedDurations]) -> Durations:
        """All durations of the parts together."""
        whole = cls()
        for part in parts:
            before = whole.count
            whole._flushed().decode_and_add(part.histogram)
            whole._total_ns += part.total_ns
            if whole.count > before:
                whole._least_ns = min(whole._least_ns, part.least_ns)
        return whole

    @property
    def count(self) -> int:
        """How many."""
        return int(self._flushed().get_total_count())

    @property
    def mean_ms(self) -> float:
        """The mean; 0 if there is none."""
        return self._total_ns / self.count / 1e6 if self.count else 0.0

    @property
    def least_ms(self) -> float:
        """The shortest; 0 if there is none."""
        return self._least_ns / 1e6 if self.count else 0.0

    def quantile_ms(self, share: float) -> float:
        """What that share of them (0 to 1) is not longer than; 0 if there is none."""
        return self.quantiles_ms([share])[0]

    def quantiles_ms(self, shares: Sequence[float]) -> list[float]:
        """Several quantiles in one pass."""
        if not self.count:
            return [0.0] * len(shares)
        percents = [share * 100 for share in shares]
        values = self._flushed().get_percentile_to_value_dict(percents)
        return [values[percent] / 1e6 for percent in percents]
