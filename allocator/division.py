"""Divides the cores of CPU devices among workers: a part of a device is a device of its own.

Pure data, used in the process that plans an allocation. Devices and how many cores their parts may
have flow in; parts, their names and the `Problem` of placing members on them flow out.

A device called ``cpu:0`` is divided into ``cpu:0/0-3`` (its cores 0 to 3), ``cpu:0/4,6`` and so on;
a part that is the whole keeps the device's name. The kind of a part is ``cpu-N``, so how well a
member uses N cores is a profile like any other. That networks need cores unequally is Synergy's
point (Mohan et al., OSDI 2022).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from allocator.problem import Device, Problem

__all__ = [
    "Divisible",
    "Division",
    "leave_memory_to_workers",
    "part_cores",
    "part_kind",
    "part_name",
    "thread_counts",
    "whole_name",
]

#: By the name of a divisible device, how many cores each of its parts has, descending.
Division = Mapping[str, tuple[int, ...]]

_PART = re.compile(r"(?P<whole>.+)/(?P<cores>\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*)")
#: No core has a higher id: a slip such as 0-999999999 is not to fill the memory.
_MOST_CORES = 1 << 14


def thread_counts(wanted: Sequence[int], cores: int) -> tuple[int, ...]:
    """Return how many of a device's cores a part may have, ascending.

    Nothing wanted means 1, 2, 4, ... and all of them.
    """
    if wanted:
        return tuple(sorted({count for count in wanted if count <= cores}))
    return (*(1 << step for step in range((cores - 1).bit_length())), cores)


def part_kind(cores: int) -> str:
    """Return the kind of a CPU device with so many cores."""
    return f"cpu-{cores}"


def part_name(whole: str, cores: Sequence[int], own: Sequence[int]) -> str:
    """Return the name of the part of a device (with `cores`) that has its `own` ones of them."""
    ids = sorted(set(own))
    if len(ids) == len(cores):
        return whole
    runs = [[ids[0], ids[0]]]
    for before, core in pairwise(ids):
        if core == before + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    texts = (f"{first}-{last}" if last > first else str(first) for first, last in runs)
    return f"{whole}/{','.join(texts)}"


def whole_name(name: str) -> str:
    """Return the name of the device that a device is a part of: its own if it is none."""
    found = _PART.fullmatch(name)
    return found["whole"] if found else name


def part_cores(name: str) -> tuple[int, ...]:
    """Return the ids of the cores in the name of a part; none if it is not one."""
    found = _PART.fullmatch(name)
    cores: list[int] = []
    for run in found["cores"].split(",") if found else ():
        first, _, last = run.partition("-")
        cores += range(int(first), min(int(last or first) + 1, _MOST_CORES))
    return tuple(cores)


def leave_memory_to_workers(
    devices: Sequence[Device], worker_bytes: Mapping[str, int]
) -> tuple[Device, ...]:
    """Subtract the memory of workers without members; a pool pays for each of its devices."""
    pools: Counter[str] = Counter()
    for device in devices:
        if device.pool:
            pools[device.pool] += worker_bytes.get(device.kind, 0)

    def own(device: Device) -> int:
        return pools[device.pool] if device.pool else worker_bytes.get(device.kind, 0)

    return tuple(
        replace(device, memory_bytes=max(device.memory_bytes - own(device), 0))
        for device in devices
    )


@dataclass(frozen=True)
class Divisible:
    """Members to be placed on devices of which some may be divided.

    Attributes:
        whole: the problem of the undivided devices; their memory is for workers, too. Its profiles
            are of all kinds that a part may have.
        counts: by the name of each divisible device, how many cores a part of it may have.
        worker_bytes: by kind, what a worker takes without any member.
    """

    whole: Problem
    counts: Mapping[str, tuple[int, ...]]
    worker_bytes: Mapping[str, int] = field(default_factory=dict)

    def uniform(self, count: int) -> Division:
        """Divide every device into parts of so many cores, or the next fewer that it may have."""
        division: dict[str, tuple[int, ...]] = {}
        for name, counts in self.counts.items():
            own = max((one for one in counts if one <= count), default=counts[0])
            division[name] = (own,) * (self.cores[name] // own)
        return division

    @cached_property
    def cores(self) -> Mapping[str, int]:
        """By the name of each divisible device, how many cores it has."""
        return {one.name: len(one.cores) for one in self.whole.devices if one.name in self.counts}

    def divided(self, division: Division) -> Problem:
        """Return the problem of placing the members on the parts of a division."""
        whole = self.whole
        parts = {part: one.name for one in whole.devices for part in self._parts(one, division)}
        return replace(
            whole,
            devices=leave_memory_to_workers(tuple(parts), self.worker_bytes),
            row_s={
                part.name: whole.row_s[name] for part, name in parts.items() if name in whole.row_s
            },
        )

    def _parts(self, device: Device, division: Division) -> Iterator[Device]:
        """The first cores are the biggest part's, so cores that share a cache stay together."""
        if device.name not in division:
            yield device
            return
        start, pool = 0, device.pool or device.name
        for count in division[device.name]:
            own = device.cores[start : start + count]
            start += count
            name = part_name(device.name, device.cores, own)
            yield replace(device, name=name, kind=part_kind(count), cores=own, pool=pool)
