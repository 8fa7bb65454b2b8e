"""Fills the room that worst-fit leaves with further instances of the members.

Pure, used in the process that plans an allocation; a matrix flows in, a bigger one flows out.

Work is bound to a device late: whichever device is free takes the oldest rows of any member
that it holds. A member with one instance ties its rows to one device while others are idle, so
the more devices hold a member, the better the devices are used; an instance that is not needed
costs memory only. This stands in for a search that knows the latencies.
"""

from __future__ import annotations

from collections.abc import Sequence

from allocator.devices import Device
from allocator.matrix import AllocationMatrix
from allocator.worst_fit import Demand

__all__ = ["replicate"]


def replicate(
    matrix: AllocationMatrix, demands: Sequence[Demand], devices: Sequence[Device]
) -> AllocationMatrix:
    """Add instances of every member on the other devices of its class, as long as there is room.

    A member on a GPU spreads over the GPUs only, a member on the CPU over the CPU devices: rows
    that a slow device takes from a fast one would be late. The member with the fewest instances
    comes first, then the biggest, on the device with the most memory left; equals keep the
    given order, so the result is deterministic.

    Args:
        matrix: where the members are; it stays part of the result.
        demands: what an instance of each member takes, with its batch size.
        devices: the devices of the matrix.
    """
    wanted = {demand.member: demand for demand in demands}
    class_of = {device.name: device.is_cuda for device in devices}
    left = {device.name: device.memory_bytes for device in devices}
    held: dict[str, dict[str, int]] = {member: {} for member in matrix.members}
    classes: dict[str, set[bool]] = {member: set() for member in matrix.members}
    for device, member, batch in matrix.instances():
        held[member][device] = batch
        classes[member].add(class_of[device])
        left[device] -= wanted[member].memory_bytes

    def candidates() -> list[tuple[str, str]]:
        return [
            (member, device.name)
            for member in matrix.members
            for device in devices
            if device.name not in held[member]
            and device.is_cuda in classes[member]
            and left[device.name] >= wanted[member].memory_bytes
        ]

    while options := candidates():
        member, device = min(
            options,
            key=lambda o: (len(held[o[0]]), -wanted[o[0]].memory_bytes, -left[o[1]]),
        )
        held[member][device] = wanted[member].batch
        left[device] -= wanted[member].memory_bytes
    return AllocationMatrix(
        members=matrix.members,
        devices=matrix.devices,
        cells=tuple(
            tuple(held[member].get(device, 0) for member in matrix.members)
            for device in matrix.devices
        ),
    )
