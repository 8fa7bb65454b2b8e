"""Where a member's rows would best run, in the simulation.

Used within one simulation run, by the binder. Devices of a kind that hold the same members are
looked at together, which is what makes many devices cheap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allocator.simulation.jobs import Costs, DeviceState, InstanceState

__all__ = ["Best", "Instances"]

#: As in `allocator.dispatch.policy`.
_MESSAGE_S = 0.0003

#: An instance, and what all rows of its member would take there.
Best = tuple[InstanceState, float]


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


class Instances:
    """All instances, and when devices would start a new job.

    Args:
        instances: by device in the devices' order.
        members: how many.

    Attributes:
        where: by member, the bits of the devices that hold it.
    """

    def __init__(self, instances: Sequence[InstanceState], members: int) -> None:
        self._options: list[list[_Option]] = [[] for _ in range(members)]
        self.where = [0] * members
        self._make_options(instances)
        self._turn = self._version = 0

    def _make_options(self, instances: Sequence[InstanceState]) -> None:
        alike: dict[tuple[int, int, Costs], list[InstanceState]] = {}
        for one in instances:
            alike.setdefault((one.member, one.batch, one.costs), []).append(one)
            self.where[one.member] |= one.device.bit
        groups: dict[int, _Group] = {}
        for (member, batch, costs), those in alike.items():
            group = _Group(tuple(one.device for one in those))
            group = groups.setdefault(group.mask, group)
            by_device = {one.device.index: one for one in those}
            self._options[member].append(_Option(group, costs, batch, by_device))

    def begin_turn(self) -> None:
        """A turn of binding begins: what was known of starts is old."""
        self._turn += 1
        self._version += 1

    def note_job(self, device: DeviceState) -> None:
        """A device has got a job in this turn."""
        device.paid = self._turn
        self._version += 1

    def shortest_s(self, member: int, rows: int, up: int) -> float:
        """What a member's next batch takes where it is fastest, on one of the devices `up`.

        A member on devices of one kind is not asked whether they are up.
        """
        options = self._options[member]
        if len(options) == 1:
            return options[0].seconds(rows)
        return min([option.seconds(rows) for option in options if option.group.mask & up])

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

    def best(self, member: int, rows: int, now: float) -> Best | None:
        """The instance that, alone, would be through with a member's rows first, and in what time.

        Of equals the first; None if no device that has the member is up.
        """
        best: Best | None = None
        first, earliest = 0, math.inf
        for option in self._options[member]:
            device = self._first_free(option.group, now)
            if device is not None:
                seconds = option.costs.total_s(rows, option.batch)
                through = option.group.start + seconds
                if through < earliest or (through == earliest and device.index < first):
                    best = option.instances[device.index], seconds
                    first, earliest = device.index, through
        return best

    def helper(
        self,
        best: Mapping[int, Best],
        pending: Sequence[int],
        load: Mapping[DeviceState, float],
        roomy: int,
        now: float,
    ) -> InstanceState | None:
        """The instance that helps next, None if none does.

        Args:
            best: by member that may be helped, its best instance.
            pending: by member, how many rows wait.
            load: by device, what the rows of all members that wait for it would take there.
            roomy: the devices that may have room.
            now: seconds.
        """
        helper: InstanceState | None = None
        least = math.inf, math.inf, 0, 0
        for member, (own, own_s) in best.items():
            through = self._start(own.device, now) + load[own.device]
            for option in self._options[member]:
                rows = min(pending[member], option.batch)
                seconds = option.seconds(rows)
                slowdown = seconds * pending[member] / (own_s * rows)
                for device in option.group.devices:
                    if device.bit & roomy and device is not own.device:
                        one = option.instances[device.index]
                        finish = self._start(device, now) + seconds
                        if finish < through and device.has_room(one, now):
                            key = slowdown, finish, member, device.index
                            if key < least:
                                helper, least = one, key
        return helper
