"""Late binding in the simulation: which member runs next, and on which device.

Used within one simulation run: pending rows flow in, jobs flow out. The decisions are those of
`server.engine.dispatch.choose`, which may not be imported here and tells why (a test holds the two
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
from collections.abc import Sequence

from allocator.simulation.instances import Best, Instances
from allocator.simulation.jobs import CREDITS, LEAD_S, DeviceState, InstanceState, Job
from allocator.simulation.pending import PendingRows

__all__ = ["Binder"]


class Binder:
    """Pending rows of all members, and who gets them.

    Args:
        instances: all of them, by device in the devices' order.
        members: how many.
        devices: all devices.

    Attributes:
        pending: the rows that wait.
    """

    def __init__(
        self, instances: Sequence[InstanceState], members: int, devices: Sequence[DeviceState]
    ) -> None:
        self.pending = PendingRows(members)
        self._instances = Instances(instances, members)
        self._open_jobs = [0] * members
        self._free = self._up = sum(device.bit for device in devices)
        self._light: set[DeviceState] = set()

    def close(self, device: DeviceState, now: float) -> Job:
        """Remove the oldest job of a device, which is over or lost."""
        job = device.remove(now)
        self._open_jobs[job.instance.member] -= 1
        if device.up:
            if len(device.open) >= CREDITS:
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
            if device.backlog_s(now) < LEAD_S:
                roomy |= device.bit
        jobs: list[Job] = []
        self._instances.begin_turn()
        where, rows = self._instances.where, self.pending.rows
        # Who is on no device with room can't go, and room only shrinks: the others need no look.
        waiting = [
            since if devices & roomy else math.inf
            for since, devices in zip(self.pending.since, where, strict=True)
        ] if roomy else []  # fmt: skip
        best: dict[int, Best] = {}
        while roomy and (oldest := min(waiting)) != math.inf:
            alone = waiting.count(oldest) == 1
            member = waiting.index(oldest) if alone else self._foremost(waiting, oldest)
            own = None
            if where[member] & roomy:
                own = self._instances.best(member, rows[member], now)
            # A member whose best device is full lets the others pass.
            if own is None or not own[0].device.has_room(own[0], now):
                waiting[member] = math.inf
                if own is not None:
                    best[member] = own
                continue
            job = self.pending.take(own[0])
            jobs.append(job)
            roomy = self._open(job, roomy, now)
            waiting[member] = self.pending.since[member]
        if roomy and best:
            self._help(best, roomy, now, jobs)
        return jobs

    def _help(self, best: dict[int, Best], roomy: int, now: float, jobs: list[Job]) -> None:
        """Bind rows to devices with room, if that helps where their members' best has none.

        Args:
            best: by member that is on a device with room, its best instance and what all its rows
                would take there.
            roomy: the devices that may have room.
            now: seconds.
            jobs: those bound are added.
        """
        instances, pending = self._instances, self.pending
        load: dict[DeviceState, float] = {}
        for member, rows in enumerate(pending.rows):
            if rows and (found := best.get(member) or instances.best(member, rows, now)):
                device = found[0].device
                load[device] = load.get(device, 0.0) + found[1]
        while one := instances.helper(best, pending.rows, load, roomy, now):
            job = self.pending.take(one)
            jobs.append(job)
            roomy = self._open(job, roomy, now)
            own, seconds = best.pop(one.member)
            load[own.device] -= seconds
            if rows := pending.rows[one.member]:
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
        shortest_s, rows = self._instances.shortest_s, self.pending.rows
        # Of equals the first.
        return max(tied, key=lambda member: shortest_s(member, rows[member], self._up))

    def _open(self, job: Job, roomy: int, now: float) -> int:
        """Open a job; returns the devices that may have room afterwards."""
        device = job.instance.device
        device.add(job, now)
        self._instances.note_job(device)
        self._open_jobs[job.instance.member] += 1
        if len(device.open) >= CREDITS:
            self._free &= ~device.bit
            self._note_light(device)
            if device.backlog_s(now) >= LEAD_S:
                roomy &= ~device.bit
        return roomy

    def _note_light(self, device: DeviceState) -> None:
        """Remember devices without credits that may have room before their jobs are over."""
        if device.rest_s < LEAD_S:
            self._light.add(device)
        else:
            self._light.discard(device)
