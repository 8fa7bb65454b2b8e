"""The memory of devices, and what instances take of it.

Used where an allocation is planned or changed; pure. Measurements and devices flow in, bytes flow
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.deployment.costs import plan_problem
from server.profiling import Measurements
from workers.runtime.spec import DeviceSpec

__all__ = ["DeviceMemory", "instance_bytes", "memory_domains"]


@dataclass(frozen=True)
class DeviceMemory:
    """Memory for instances that one device has, or that several share, by name."""

    devices: tuple[str, ...]
    memory_bytes: int


def memory_domains(devices: Sequence[DeviceSpec], found: Measurements) -> list[DeviceMemory]:
    """Return the memories of devices, without what workers take by themselves."""
    smallest = dict.fromkeys(found.profiles.members, 1)
    problem = plan_problem(found, devices, smallest).problem
    return [
        DeviceMemory(tuple(problem.devices[i].name for i in domain.devices), domain.memory_bytes)
        for domain in problem.memory_domains
    ]


def instance_bytes(found: Measurements, kind: str, member: str, batch: int) -> int:
    """Return what an instance takes on a kind of device, 0 if nothing is known of it.

    A batch that was not measured takes at least as much as the next smaller one.
    """
    known = found.profiles.of(member, kind).items()
    return max((one.memory_bytes for size, one in known if size <= batch), default=0)
