"""Compares batch sizes by noisy measurements, and prefers the smallest among equally fast ones.

Runs in the process that profiles or plans; pure. The latencies of batch sizes that were run in turn
flow in; their relative speed and its standard error flow out.

Whatever slows a machine down for a while slows down all sizes that are run meanwhile. So the sizes
of a member are run in turn, in *blocks*, and compared within each block by the median of the
ratios. The one-standard-error rule (Breiman et al., "Classification and Regression Trees", 1984)
then prefers the smallest size, with the lowest latency and memory, that is within the noise of the
fastest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LEAST_BLOCKS", "SAME", "Comparison", "compare", "preferred_batch"]

#: How much slower a preferred batch size may be beyond noise, as a share of the rows per second.
SAME = 0.01
#: Fewer blocks do not reveal their noise; with less noise than this, more are not worth it.
LEAST_BLOCKS = 16
_PRECISE = 0.003
#: Standard deviation over median absolute deviation, and standard error of a median over that of
#: a mean, both of normal values.
_DEVIATION = 1.4826
_OF_MEDIAN = 1.2533


@dataclass(frozen=True)
class Comparison:
    """The latencies of several batch sizes, in the ratios that they had when run in turn.

    By batch size: seconds per batch, and as `noise` the relative standard error of the rows per
    second relative to the fastest size, for which it is 0.
    """

    latency_s: Mapping[int, float]
    noise: Mapping[int, float]

    @property
    def is_precise(self) -> bool:
        """Whether further blocks are unlikely to change which size is preferred."""
        fastest = max(self.latency_s, key=lambda size: size / self.latency_s[size])
        return all(error <= _PRECISE for size, error in self.noise.items() if size < fastest)


def compare(batches: Sequence[int], blocks: Sequence[Sequence[float]]) -> Comparison:
    """Compare batch sizes by `blocks`, seconds per batch [blocks, batch sizes]."""
    row_s = np.log(np.array(blocks) / np.array(batches))
    fastest = int(np.median(row_s - np.median(row_s, axis=1, keepdims=True), axis=0).argmin())
    slower = row_s - row_s[:, [fastest]]
    middle = np.median(slower, axis=0)
    spread = _DEVIATION * np.median(np.abs(slower - middle), axis=0)
    latencies = np.exp(np.median(row_s[:, fastest]) + middle) * np.array(batches)
    errors = _OF_MEDIAN * spread / math.sqrt(len(blocks))
    return Comparison(
        dict(zip(batches, latencies.tolist(), strict=True)),
        dict(zip(batches, errors.tolist(), strict=True)),
    )


def preferred_batch(rows_per_s: Mapping[int, float], noise: Mapping[int, float]) -> int:
    """Return the smallest batch size that is not clearly slower than the fastest.

    Sizes without `noise`, the relative standard error of those that were compared with each other,
    are preferred only if they are the fastest.
    """
    fastest = max(rows_per_s, key=rows_per_s.__getitem__)
    if fastest not in noise:
        return fastest
    return min(
        size
        for size, rate in rows_per_s.items()
        if size in noise
        and 1 - rate / rows_per_s[fastest] <= SAME + math.hypot(noise[size], noise[fastest])
    )
