"""Measures within a budget: next whatever may change the allocation most, until nothing could.

Runs in the process that profiles. Groups of identical targets and what is known of them flow in;
each measurement flows out as a new record. What is not known is predicted
(`server.profiling.predictions`), and `allocator.search.doubts` says whether that leaves open which
allocation is the best, and which prediction is to blame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from allocator.problem import Problem
from allocator.search.doubts import find_doubt
from server.profiling.measurements import Measurements, collect
from server.profiling.profiler import LEAST_S, TargetProfiler, TimeAllowance
from server.profiling.targets import ProfileRecord, ProfileTarget, TargetKey, measuring_s
from server.profiling.variants import with_fastest_variants

__all__ = ["CERTAIN", "Exploration", "OnProgress", "ProblemOf"]

#: Called with what is being done, how much of it is done, and of how much.
OnProgress = Callable[[str, int, int], None]
#: Returns what an allocation is searched for, given what members cost.
ProblemOf = Callable[[Measurements], Problem]

#: An allocation counts as certain if no other may have more rows/s by this share.
CERTAIN = 0.02
#: Loading a member takes longer than measuring a batch size: so many are measured at once.
_AT_ONCE = 2


class Exploration:
    """The measurements of one profiling.

    Attributes:
        doubt: see `Measurements.doubt`.
    """

    def __init__(
        self,
        targets: Sequence[ProfileTarget],
        groups: Sequence[Sequence[ProfileTarget]],
        records: Mapping[TargetKey, ProfileRecord],
        problem_of: ProblemOf,
        on_progress: OnProgress,
    ) -> None:
        self._targets = targets
        self._group_of = {target.key: group for group in groups for target in group}
        self._records = records
        self._problem_of = problem_of
        self._on_progress = on_progress
        self.doubt: float | None = None

    def run(self, end: float) -> Iterator[tuple[Sequence[ProfileTarget], ProfileRecord]]:
        """Yield groups with their new records until the allocation is certain, or `end`.

        Whoever iterates puts each record among those known before the next is asked for.
        """
        while (chosen := self._next(end)) is not None:
            group, batches = chosen
            before, done = self._records[group[0].key], self._done()

            def report(what: str, done: tuple[int, int] = done) -> None:
                self._on_progress(what, *done)

            profiler = TargetProfiler(group[0], before, TimeAllowance(end, end), report)
            record = profiler.measure(batches)
            yield group, record
            if record == before:  # the time was over
                return

    def _next(self, end: float) -> tuple[Sequence[ProfileTarget], list[int]] | None:
        """Return what to measure next, a group and batch sizes; None if that is of no use."""
        found = with_fastest_variants(
            collect(self._targets, self._records, from_cache=0, measured=0)
        )
        doubt = find_doubt(self._problem_of(found))
        self.doubt = doubt.share
        left_s = end - time.monotonic()
        if doubt.share <= CERTAIN or left_s < LEAST_S:
            return None
        able: dict[TargetKey, list[int]] = {}
        for one in doubt.points:
            key = (found.form_of(one.member, one.device_kind), one.device_kind)
            if key in self._group_of and measuring_s(one.latency_s) < left_s:
                able.setdefault(key, []).append(one.batch)
        first = next(iter(able), None)
        return None if first is None else (self._group_of[first], able[first][:_AT_ONCE])

    def _done(self) -> tuple[int, int]:
        """How many batch sizes are known, and of how many."""
        real = [target for target in self._targets if target.batches and not target.is_fake]
        records = [(self._records[target.key], target.batches) for target in real]
        known = sum(len(record.measured) for record, _ in records)
        return known, known + sum(len(record.open_batches(sizes)) for record, sizes in records)
