"""The state that the policy reads: members, their placements, devices and the jobs they hold.

Pure (times are arguments). Whoever drives the policy keeps this up to date: the front-end's fleet
by what workers report, a simulation by what it computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from allocator.dispatch.flows import Flow
from allocator.dispatch.pending import PendingRows, Range

__all__ = ["DeviceState", "LatencyEstimate", "Member", "OpenJob", "Placement", "requeue"]

#: How many jobs a device may hold whatever they are: one that it runs, one to fetch meanwhile.
_CREDITS = 2
#: A device with a shorter backlog may hold more: about a message's way there and back.
_LEAD_S = 0.001
_SMOOTHING = 0.2
#: A measurement counts as at most this multiple of the estimate, which counts as at least so much.
_MOST, _LEAST_S = 3.0, 0.001


class LatencyEstimate:
    """Estimated seconds per batch of an instance: per power of two, learned as it runs."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._full = (batch - 1).bit_length()
        self._seconds = [0.0] * (batch.bit_length() + 1)

    def warm_up(self, one_row_s: float, full_s: float) -> None:
        """Start from two measurements; what lies between them is interpolated."""
        for bucket in range(len(self._seconds)):
            share = min(1 << bucket, self.batch) / self.batch
            self._seconds[bucket] = one_row_s + (full_s - one_row_s) * share
        self._seconds[0] = one_row_s

    def learn(self, rows: int, elapsed_s: float) -> None:
        """Learn from a batch of `rows` rows.

        One that took far longer than usual was held up, mostly, and says little about the next:
        only if that goes on it is believed.
        """
        bucket = (rows - 1).bit_length()
        usual_s = self._seconds[bucket]
        believed_s = min(elapsed_s, _MOST * max(usual_s, _LEAST_S))
        self._seconds[bucket] += _SMOOTHING * (believed_s - usual_s)

    def seconds(self, rows: int) -> float:
        """How long a batch of `rows` should take, or a full one if that is less."""
        return self._seconds[(rows - 1).bit_length() if rows < self.batch else self._full]

    def total(self, rows: int) -> float:
        """How long `rows` should take, batch after batch."""
        if rows < self.batch:
            return self._seconds[(rows - 1).bit_length()]
        rest = rows % self.batch
        seconds = rows // self.batch * self._seconds[self._full]
        return seconds + self._seconds[(rest - 1).bit_length()] if rest else seconds


@dataclass(slots=True)
class OpenJob:
    """A job that a device holds; ids ascend in the order of binding.

    Its ranges are merged, and `shares` has them by flow. Its oldest row has waited since `since`;
    it was bound at `opened` and should take `expected_s`.
    """

    id: int
    placement: Placement
    ranges: list[Range]
    rows: int
    expected_s: float
    since: float
    opened: float
    shares: list[tuple[Flow, list[Range]]]


@dataclass(slots=True, eq=False)
class DeviceState:
    """A device as the dispatcher sees it: up or not, and the jobs it holds in their order.

    `expected_s` is of all these jobs together; the first of them began at `head_since`.
    """

    name: str
    up: bool = False
    jobs: dict[int, OpenJob] = field(default_factory=dict)
    expected_s: float = 0.0
    head_since: float = 0.0

    def backlog_s(self, now: float) -> float:
        """How long what it holds should still take.

        A job that has overrun its estimate is expected to go on for as long again as it is late,
        so that work turns away from a device that hangs.
        """
        if not self.jobs:
            return 0.0
        running = next(iter(self.jobs.values())).expected_s
        spent = now - self.head_since
        if spent <= running:
            return self.expected_s - spent
        return self.expected_s - running + (spent - running)

    def has_capacity(self, placement: Placement, now: float) -> bool:
        """Whether it may be given one more job of that placement."""
        held = len(self.jobs)
        if held < _CREDITS:
            return True
        return self.backlog_s(now) < _LEAD_S and all(
            job.placement is not placement for job in self.jobs.values()
        )

    def is_full(self, backlog_s: float) -> bool:
        """Whether it has no capacity for any placement, its backlog being that long."""
        return backlog_s >= _LEAD_S and len(self.jobs) >= _CREDITS

    def open(self, job: OpenJob, now: float) -> None:
        """Add a job."""
        if not self.jobs:
            self.head_since = now
        self.jobs[job.id] = job
        self.expected_s += job.expected_s
        job.placement.member.open_jobs += 1

    def close(self, job_id: int, now: float) -> OpenJob | None:
        """Remove a job that is over; None if it isn't open."""
        job = self.jobs.pop(job_id, None)
        if job is not None:
            self.head_since = now
            self.expected_s = self.expected_s - job.expected_s if self.jobs else 0.0
            job.placement.member.open_jobs -= 1
        return job


@dataclass(slots=True, eq=False)
class Placement:
    """A member on a device: one instance, with its index among the device's instances."""

    device: DeviceState
    instance: int
    member: Member
    latency: LatencyEstimate


@dataclass(slots=True, eq=False)
class Member:
    """A member with its pending rows and its placements.

    `index` is among the members of its arena; `open_jobs` counts its jobs that devices hold.
    """

    name: str
    arena: int
    index: int
    pending: PendingRows
    placements: list[Placement] = field(default_factory=list)
    open_jobs: int = 0

    @property
    def is_up(self) -> bool:
        """Whether some device that holds it is up."""
        return any(placement.device.up for placement in self.placements)


def requeue(job: OpenJob) -> None:
    """Make the rows of a job that was closed before it ran pending again, as old as they are."""
    pending = job.placement.member.pending
    for flow, ranges in job.shares:
        for start, stop in ranges:
            pending.append(start, stop, job.since, flow)
