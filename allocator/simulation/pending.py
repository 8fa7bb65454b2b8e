"""The rows that wait in the simulation, by member, in the order of their arrival.

Used within one simulation run, by the binder: ranges flow in, jobs flow out.
"""

from __future__ import annotations

import math
from collections import deque

from allocator.simulation.jobs import InstanceState, Job, Range

__all__ = ["PendingRows"]


class PendingRows:
    """What waits for each member.

    Args:
        members: how many.

    Attributes:
        rows: by member, how many wait.
        since: by member, when the oldest of them came; infinite if there are none.
    """

    def __init__(self, members: int) -> None:
        self._ranges: list[deque[tuple[int, int, float]]] = [deque() for _ in range(members)]
        self.rows = [0] * members
        self.since = [math.inf] * members

    def append(self, member: int, start: int, stop: int, now: float) -> None:
        """Let rows wait, behind everything else."""
        self._ranges[member].append((start, stop, now))
        self.rows[member] += stop - start
        if self.since[member] == math.inf:
            self.since[member] = now

    def put_back(self, job: Job) -> None:
        """Let the rows of a lost job wait again, before everything else."""
        member = job.instance.member
        self._ranges[member].extendleft((*span, job.since) for span in reversed(job.ranges))
        self.rows[member] += job.rows
        self.since[member] = job.since

    def take(self, instance: InstanceState) -> Job:
        """Remove a member's next batch from what it has pending."""
        member = instance.member
        pending = self._ranges[member]
        since = self.since[member]
        left = limit = min(self.rows[member], instance.batch)
        ranges: list[Range] = []
        while left:
            start, stop, came = pending.popleft()
            if stop - start > left:
                pending.appendleft((start + left, stop, came))
                stop = start + left
            left -= stop - start
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((start, stop))
        self.rows[member] -= limit
        self.since[member] = pending[0][2] if pending else math.inf
        return Job(instance, ranges, limit, since)
