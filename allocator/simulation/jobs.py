"""Jobs, and the devices and instances that run them, as the simulation keeps them.

Used within one simulation run, by the binder, which decides, and by the engine, which executes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CREDITS", "LEAD_S", "Costs", "DeviceState", "InstanceState", "Job", "Range"]

Range = tuple[int, int]

# As in `allocator.dispatch.policy`.
CREDITS = 2
LEAD_S = 0.001
_SMOOTHING = 0.2


class Costs:
    """What a member's batches take on one kind of device; shared by its instances there.

    Args:
        latency_s: seconds per batch, by rows.
        largest: the most rows that are asked for.

    Attributes:
        pace: what batches have taken lately, as a multiple of that.
    """

    __slots__ = ("_known", "_latency_s", "pace")

    def __init__(self, latency_s: Callable[[int], float], largest: int) -> None:
        self._latency_s = latency_s
        self._known = [0.0] * (largest + 1)
        self.pace = 1.0

    def seconds(self, rows: int) -> float:
        """How long a batch of so many rows takes, undisturbed."""
        seconds = self._known[rows]
        if not seconds:
            seconds = self._known[rows] = self._latency_s(rows)
        return seconds

    def learn(self, ratio: float) -> None:
        """Take in what a batch has taken, as a multiple of its undisturbed seconds."""
        self.pace += _SMOOTHING * (ratio - self.pace)

    def total_s(self, rows: int, batch: int) -> float:
        """How long so many rows should take, batch after batch."""
        if rows <= batch:
            return self.seconds(rows) * self.pace
        full, rest = divmod(rows, batch)
        seconds = full * self.seconds(batch)
        return (seconds + self.seconds(rest) if rest else seconds) * self.pace


class Job:
    """A batch for an instance.

    Attributes:
        ranges: its rows.
        rows: how many.
        seconds: what it takes, undisturbed.
        expected_s: what it should take, by the estimate.
        since: when the oldest of its rows came.
    """

    __slots__ = ("expected_s", "instance", "ranges", "rows", "seconds", "since")

    def __init__(
        self, instance: InstanceState, ranges: list[Range], rows: int, since: float
    ) -> None:
        self.instance, self.ranges, self.rows, self.since = instance, ranges, rows, since
        self.seconds = instance.costs.seconds(rows)
        self.expected_s = self.seconds * instance.costs.pace


class DeviceState:
    """A device: what the front-end believes of it, and what its worker does.

    Attributes:
        index: its place among the devices.
        bit: 1 << index.
        cores: how many of the host's cores its worker keeps busy; 0 for a GPU.
        open: the jobs the front-end has given it and not heard of, in their order.
        head_due: when the first of them should end.
        rest_s: what the others should take.
        paid: the last turn of binding that gave it a job, and so paid for a message.
        queue: those that the worker has not finished; the first one runs.
        running: number of the running work on the timeline, 0 if idle.
        started: when the running job began.
        busy_s: how long it has run jobs, without the running one.
        unreported: jobs that the worker has finished and not told of.
        flushed: when it last told of some.
    """

    def __init__(self, name: str, index: int, cores: int) -> None:
        self.name, self.index, self.bit, self.cores = name, index, 1 << index, cores
        self.up = True
        self.open: deque[Job] = deque()
        self.head_due = self.rest_s = 0.0
        self.paid = 0
        self.queue: deque[Job] = deque()
        self.running = 0
        self.started = self.busy_s = self.flushed = 0.0
        self.unreported: list[Job] = []

    def backlog_s(self, now: float) -> float:
        """How long what it holds should still take; a job that is late, as long again."""
        return self.rest_s + abs(self.head_due - now) if self.open else 0.0

    def has_room(self, instance: InstanceState, now: float) -> bool:
        """Whether it takes one more job of that instance."""
        return len(self.open) < CREDITS or (
            self.backlog_s(now) < LEAD_S and all(job.instance is not instance for job in self.open)
        )

    def add(self, job: Job, now: float) -> None:
        """Open a job."""
        if self.open:
            self.rest_s += job.expected_s
        else:
            self.head_due = now + job.expected_s
        self.open.append(job)

    def remove(self, now: float) -> Job:
        """Close the oldest job."""
        job = self.open.popleft()
        if self.open:
            head_s = self.open[0].expected_s
            self.head_due = now + head_s
            self.rest_s = self.rest_s - head_s if len(self.open) > 1 else 0.0
        return job


@dataclass(slots=True, eq=False)
class InstanceState:
    """A member on a device.

    Attributes:
        member: its index.
        jobs: how many it has run.
        rows: how many rows they had.
    """

    device: DeviceState
    member: int
    batch: int
    costs: Costs
    jobs: int = 0
    rows: int = 0
