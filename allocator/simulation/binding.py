"""Late binding in the simulation: which member runs next, and on which device.

Used within one simulation run: pending rows flow in, jobs flow out. The decisions are those of
`server.dispatch.choose`, which may not be imported here and tells why (a test holds the two
together): the member whose oldest row has waited longest, then the one with the fewest open jobs,
then the one with the longest job; on the device that, alone, would be through with all its rows
first, busy or not; then on others with room that help; two credits per device, and more for tiny
jobs of members it has nothing of.

Simplified: an estimate is the profile's latency for that very number of rows times the pace lately
learned for that member on that kind of device, where the server learns a latency per instance and
power of two; and rows that killed a worker are not isolated.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Binder", "Costs", "DeviceState", "InstanceState", "Job", "Range"]

Range = tuple[int, int]

# As in `server.dispatch`.
_CREDITS = 2
_LEAD_S = 0.001
_MESSAGE_S = 0.0003
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
        return len(self.open) < _CREDITS or (
            self.backlog_s(now) < _LEAD_S and all(job.instance is not instance for job in self.open)
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


class _Group:
    """Devices on which batches of some members take equally long: the earliest free is the best."""

    __slots__ = ("best", "devices", "mask", "start", "version")

    def __init__(self, devices: tuple[DeviceState, ...]) -> None:
        self.devices = devices
        self.mask = sum(device.bit for device in devices)
        self.best: DeviceState | None = None
        self.start = math.inf
        self.version = 0


@dataclass(slots=True, eq=False)
class _Option:
    """A member's instances of one batch size on one kind of device."""

    group: _Group
    costs: Costs
    batch: int
    instances: dict[int, InstanceState]

    def seconds(self, pending: int) -> float:
        """What the next batch should take if so many rows wait."""
        rows = pending if pending < self.batch else self.batch
        return self.costs.seconds(rows) * self.costs.pace


class Binder:
    """Pending rows of all members, and who gets them.

    Args:
        instances: all of them, by device in the devices' order.
        members: how many.
        devices: all devices.
    """

    def __init__(
        self, instances: Sequence[InstanceState], members: int, devices: Sequence[DeviceState]
    ) -> None:
        self._options: list[list[_Option]] = [[] for _ in range(members)]
        self._where = [0] * members
        self._make_options(instances)
        self._pending: list[deque[tuple[int, int, float]]] = [deque() for _ in range(members)]
        self._rows = [0] * members
        self._since = [math.inf] * members
        self._open_jobs = [0] * members
        self._free = self._up = sum(device.bit for device in devices)
        self._light: set[DeviceState] = set()
        self._turn = self._version = 0

    def _make_options(self, instances: Sequence[InstanceState]) -> None:
        alike: dict[tuple[int, int, Costs], list[InstanceState]] = {}
        for one in instances:
            alike.setdefault((one.member, one.batch, one.costs), []).append(one)
            self._where[one.member] |= one.device.bit
        groups: dict[int, _Group] = {}
        for (member, batch, costs), those in alike.items():
            group = _Group(tuple(one.device for one in those))
            group = groups.setdefault(group.mask, group)
            by_device = {one.device.index: one for one in those}
            self._options[member].append(_Option(group, costs, batch, by_device))

    def append(self, member: int, start: int, stop: int, now: float) -> None:
        """Let rows wait, behind everything else."""
        self._pending[member].append((start, stop, now))
        self._rows[member] += stop - start
        if self._since[member] == math.inf:
            self._since[member] = now

    def put_back(self, job: Job) -> None:
        """Let the rows of a lost job wait again, before everything else."""
        member = job.instance.member
        self._pending[member].extendleft((*span, job.since) for span in reversed(job.ranges))
        self._rows[member] += job.rows
        self._since[member] = job.since

    def close(self, device: DeviceState, now: float) -> Job:
        """Remove the oldest job of a device, which is over or lost."""
        job = device.remove(now)
        self._open_jobs[job.instance.member] -= 1
        if device.up:
            if len(device.open) >= _CREDITS:
                self._note_light(device)
            else:
                self._free |= device.bit
        return job

    def set_up(self, device: DeviceState, up: bool) -> None:
        """A device is there again, or is lost."""
        device.up = up
        self._light.discard(device)
        self._free = self._free | device.bit if up else self._free & ~device.bit
        self._up = self._up | device.bit if up else self._up & ~device.bit

    def bind(self, now: float) -> list[Job]:
        """Bind pending rows to devices until none has room for what waits; open these jobs."""
        roomy = self._free
        for device in self._light:
            if device.backlog_s(now) < _LEAD_S:
                roomy |= device.bit
        jobs: list[Job] = []
        self._turn += 1
        self._version += 1
        # Who is on no device with room can't go, and room only shrinks: the others need no look.
        waiting = [
            since if where & roomy else math.inf
            for since, where in zip(self._since, self._where, strict=True)
        ] if roomy else []  # fmt: skip
        best: dict[int, tuple[InstanceState, float]] = {}
        while roomy and (oldest := min(waiting)) != math.inf:
            alone = waiting.count(oldest) == 1
            member = waiting.index(oldest) if alone else self._foremost(waiting, oldest)
            own = self._best(member, now) if self._where[member] & roomy else None
            # A member whose best device is full lets the others pass.
            if own is None or not own[0].device.has_room(own[0], now):
                waiting[member] = math.inf
                if own is not None:
                    best[member] = own
                continue
            job = self._take(own[0])
            jobs.append(job)
            roomy = self._open(job, roomy, now)
            waiting[member] = self._since[member]
        if roomy and best:
            self._help(best, roomy, now, jobs)
        return jobs

    def _help(
        self, best: dict[int, tuple[InstanceState, float]], roomy: int, now: float, jobs: list[Job]
    ) -> None:
        """Bind rows to devices with room, if that helps where their members' best has none.

        Args:
            best: by member that is on a device with room, its best instance and what all its rows
                would take there.
            roomy: the devices that may have room.
            now: seconds.
            jobs: those bound are added.
        """
        load: dict[DeviceState, float] = {}
        for member, rows in enumerate(self._rows):
            found = best.get(member) or (self._best(member, now) if rows else None)
            if found is not None:
                device = found[0].device
                load[device] = load.get(device, 0.0) + found[1]
        while (one := self._helper(best, load, roomy, now)) is not None:
            job = self._take(one)
            jobs.append(job)
            roomy = self._open(job, roomy, now)
            own, seconds = best.pop(one.member)
            load[own.device] -= seconds
            if rows := self._rows[one.member]:
                seconds = own.costs.total_s(rows, own.batch)
                best[one.member] = own, seconds
                load[own.device] += seconds

    def _foremost(self, waiting: list[float], oldest: float) -> int:
        """Among members that have waited equally: the fewest open jobs, then the longest job."""
        tied = [member for member, since in enumerate(waiting) if since == oldest]
        fewest = min([self._open_jobs[member] for member in tied])
        tied = [member for member in tied if self._open_jobs[member] == fewest]
        if len(tied) == 1:
            return tied[0]
        return max(tied, key=self._shortest_s)  # of equals the first

    def _shortest_s(self, member: int) -> float:
        """What a member's next batch takes where it is fastest; the member is on a device."""
        options, rows = self._options[member], self._rows[member]
        if len(options) == 1:
            return options[0].seconds(rows)
        return min([option.seconds(rows) for option in options if option.group.mask & self._up])

    def _start(self, device: DeviceState, now: float) -> float:
        """When a new job would start on a device, in seconds from now."""
        start = device.backlog_s(now)
        return start if device.paid == self._turn else start + _MESSAGE_S

    def _first_free(self, group: _Group, now: float) -> DeviceState | None:
        """The device of a group that would start a new job first; None if none is up."""
        if group.version != self._version:
            group.version = self._version
            group.best, group.start = None, math.inf
            for device in group.devices:
                if device.up:
                    start = device.rest_s + abs(device.head_due - now) if device.open else 0.0
                    if device.paid != self._turn:
                        start += _MESSAGE_S
                    if start < group.start:
                        group.best, group.start = device, start
        return group.best

    def _best(self, member: int, now: float) -> tuple[InstanceState, float] | None:
        """The instance that, alone, would be through with a member's rows first, and in what time.

        Of equals the first; None if no device that has the member is up.
        """
        best: tuple[InstanceState, float] | None = None
        first, earliest = 0, math.inf
        rows = self._rows[member]
        for option in self._options[member]:
            device = self._first_free(option.group, now)
            if device is not None:
                seconds = option.costs.total_s(rows, option.batch)
                through = option.group.start + seconds
                if through < earliest or (through == earliest and device.index < first):
                    best = option.instances[device.index], seconds
                    first, earliest = device.index, through
        return best

    def _helper(
        self,
        best: dict[int, tuple[InstanceState, float]],
        load: dict[DeviceState, float],
        roomy: int,
        now: float,
    ) -> InstanceState | None:
        """The instance that helps next, None if none does.

        Args:
            best: as for `_help`.
            load: by device, what the rows of all members that wait for it would take there.
            roomy: the devices that may have room.
            now: seconds.
        """
        helper: InstanceState | None = None
        least = math.inf, math.inf, 0, 0
        for member, (own, own_s) in best.items():
            pending = self._rows[member]
            through = self._start(own.device, now) + load[own.device]
            for option in self._options[member]:
                rows = min(pending, option.batch)
                seconds = option.seconds(rows)
                for device in option.group.devices:
                    if device.bit & roomy and device is not own.device:
                        one = option.instances[device.index]
                        finish = self._start(device, now) + seconds
                        if finish < through and device.has_room(one, now):
                            key = seconds * pending / (own_s * rows), finish, member, device.index
                            if key < least:
                                helper, least = one, key
        return helper

    def _take(self, instance: InstanceState) -> Job:
        """Remove a member's next batch from what it has pending."""
        member = instance.member
        pending = self._pending[member]
        since = self._since[member]
        left = limit = min(self._rows[member], instance.batch)
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
        self._rows[member] -= limit
        self._since[member] = pending[0][2] if pending else math.inf
        return Job(instance, ranges, limit, since)

    def _open(self, job: Job, roomy: int, now: float) -> int:
        """Open a job; returns the devices that may have room afterwards."""
        device = job.instance.device
        device.add(job, now)
        device.paid = self._turn
        self._version += 1
        self._open_jobs[job.instance.member] += 1
        if len(device.open) >= _CREDITS:
            self._free &= ~device.bit
            self._note_light(device)
            if device.backlog_s(now) >= _LEAD_S:
                roomy &= ~device.bit
        return roomy

    def _note_light(self, device: DeviceState) -> None:
        """Remember devices without credits that may have room before their jobs are over."""
        if device.rest_s < _LEAD_S:
            self._light.add(device)
        else:
            self._light.discard(device)
