"""Worst-fit decreasing: the first allocation, with one instance of each member.

The algorithm is that of Pochelu, Petiton and Conche (IEEE Big Data 2021, arXiv 2208.14049).
Pure, used in the process that plans an allocation; demands and devices flow in, a matrix
flows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allocator.devices import Device
from allocator.matrix import AllocationMatrix

__all__ = ["Demand", "NoPlaceError", "worst_fit"]


@dataclass(frozen=True)
class Demand:
    """What one instance of a member takes.

    Attributes:
        member: the member's name.
        batch: the batch size of the instance.
        memory_bytes: the memory it takes at that batch size.
    """

    member: str
    batch: int
    memory_bytes: int


class NoPlaceError(Exception):
    """No device has room for a member.

    Attributes:
        demand: what was to be placed.
        left_bytes: what was left on each device, by name.
    """

    def __init__(self, demand: Demand, left_bytes: Mapping[str, int]) -> None:
        left = ", ".join(f"{_readable(size)} on {name}" for name, size in left_bytes.items())
        super().__init__(
            f"member '{demand.member}' needs {_readable(demand.memory_bytes)} "
            f"at batch size {demand.batch}, but there is left: {left or 'no device'}"
        )
        self.demand = demand
        self.left_bytes = dict(left_bytes)


def worst_fit(members: Sequence[Demand], devices: Sequence[Device]) -> AllocationMatrix:
    """Place each member once, the biggest first, on the device with the most memory left.

    The CPU takes part only for members that no GPU has room for. Equals keep the given order.

    Args:
        members: what each member takes; the matrix keeps their order.
        devices: where they may go; the matrix keeps their order.

    Raises:
        NoPlaceError: if a member fits nowhere.
    """
    left = {device.name: device.memory_bytes for device in devices}
    place: dict[str, str] = {}
    for demand in sorted(members, key=lambda one: -one.memory_bytes):
        roomy = [one for one in devices if left[one.name] >= demand.memory_bytes]
        if not roomy:
            raise NoPlaceError(demand, left)
        chosen = max(roomy, key=lambda one: (one.is_cuda, left[one.name]))
        left[chosen.name] -= demand.memory_bytes
        place[demand.member] = chosen.name
    return AllocationMatrix(
        members=tuple(demand.member for demand in members),
        devices=tuple(device.name for device in devices),
        cells=tuple(
            tuple(one.batch if place[one.member] == device.name else 0 for one in members)
            for device in devices
        ),
    )


def _readable(size: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size} bytes"
