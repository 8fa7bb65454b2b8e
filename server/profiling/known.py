"""What is known of a member on a kind of device, as far as it was measured.

Pure; used in the process that profiles, and kept as the cache's files. What a profiler measured
flows in, what it tells about the next batch size flows out.
"""

from __future__ import annotations

import msgspec

from workers.profiler.messages import LEAST_RUNS, LONG_RUN_S, Measured

__all__ = ["MEASURING_S", "Known", "rows_per_s"]

#: A batch size that has so small a share of the best one's rows per second is no rival of it.
_RIVAL = 0.85

#: How long a batch size is measured, if its runs are short.
MEASURING_S = 0.3


class Known(msgspec.Struct, frozen=True):
    """What is known of a member on a kind of device: also what a file of the cache holds.

    Attributes:
        measured: ascending.
        worker_bytes: what a worker takes there without any member, 0 if it is not known.
        ended: whether there is nothing to be gained from larger batches.
        shortfall: why larger batches (or, with nothing measured, any) can't be used; may be empty.
        noise: by batch size, of those that were compared with each other, the relative standard
            error of the rows per second beside those of the fastest; empty as long as none were.
        crowd: how many instances ran side by side for `colocation`, 0 for none yet.
        colocation: by what factor a batch takes longer in that crowd.
    """

    measured: tuple[Measured, ...] = ()
    worker_bytes: int = 0
    ended: bool = False
    shortfall: str = ""
    noise: dict[int, float] = {}
    crowd: int = 0
    colocation: float = 1.0

    @property
    def best(self) -> Measured:
        """The batch size with most rows per second; something must have been measured."""
        return max(self.measured, key=rows_per_s)

    @property
    def rivals(self) -> tuple[Measured, ...]:
        """The batch sizes that may be the best, ascending."""
        fastest = max(map(rows_per_s, self.measured), default=0.0)
        return tuple(one for one in self.measured if rows_per_s(one) >= _RIVAL * fastest)

    @property
    def needs_comparison(self) -> bool:
        """Whether it is still to be found out which of several batch sizes is the best."""
        return self.ended and not self.noise and len(self.rivals) > 1

    def measuring_s(self, batch: int) -> float:
        """Return how long it takes to measure a batch size, going by the one nearest below.

        Args:
            batch: the batch size, rows.
        """
        below = [one for one in self.measured if one.batch <= batch]
        if not below:
            return 0.0
        run_s = below[-1].latency_s * batch / below[-1].batch
        if run_s > LONG_RUN_S:
            return 2 * run_s
        return run_s + max(MEASURING_S, LEAST_RUNS * run_s)


def rows_per_s(one: Measured) -> float:
    """Return how many rows per second run at a batch size.

    Args:
        one: what was measured.
    """
    return one.batch / one.latency_s
