"""What an allocation is searched for: members, devices, what members cost there, what fits.

Pure data, used in the process that plans an allocation. Searches work on `Cells`, an array of
batch sizes; `AllocationMatrix` is what callers get.

The performance model: an instance of batch size b that has its device for itself predicts
b / latency rows/s. A device is shared in time by its instances, and a member's rows are shared by
its instances at any ratio (late binding settles at the best one). A row of traffic asks for
`demand` rows of each member, and the traffic is served as fast as its slowest member allows. So the
throughput of a matrix is the value of a linear program (`allocator.search.throughput`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from allocator.matrix import AllocationMatrix
from allocator.profiles import Profile, Profiles

__all__ = ["Cells", "Device", "NoPlaceError", "Problem", "MemoryDomain", "readable_bytes"]

#: How many devices an error lists.
_MOST_LISTED = 8

#: Batch sizes, [devices, members]; 0 is no instance.
Cells = npt.NDArray[np.int64]


class NoPlaceError(Exception):
    """A member fits nowhere.

    Its smallest instance needs `needed_bytes` (None: it runs on no device at all); by device name,
    `left_bytes` were left when it was its turn, and `shortfall_bytes` is the least that is missing.
    """

    def __init__(
        self,
        member: str,
        needed_bytes: int | None,
        batch: int,
        left_bytes: Mapping[str, int],
        shortfall_bytes: int,
    ) -> None:
        if needed_bytes is None:
            text = f"member {member!r} has no profile for any of the devices"
        else:
            roomiest = list(left_bytes.items())
            if len(roomiest) > _MOST_LISTED:
                roomiest.sort(key=lambda item: -item[1])
            left = ", ".join(
                f"{readable_bytes(b)} on {name}" for name, b in roomiest[:_MOST_LISTED]
            )
            if len(roomiest) > _MOST_LISTED:
                left += f" and less on {len(roomiest) - _MOST_LISTED} more"
            text = (
                f"member {member!r} needs {readable_bytes(needed_bytes)} at batch size {batch}, "
                f"short of {readable_bytes(shortfall_bytes)}; there is left: {left}"
            )
        super().__init__(text)
        self.member = member
        self.needed_bytes = needed_bytes
        self.left_bytes = dict(left_bytes)
        self.shortfall_bytes = shortfall_bytes

    def unproven(self, seconds: float) -> NoPlaceError:
        """Say that there may be a place, but that none was found in so many seconds."""
        self.args = (f"no place found in {seconds:g} s, more time may help; at first {self}",)
        return self


@dataclass(frozen=True)
class Device:
    """Something that runs predictions.

    Attributes:
        name: ``cuda:N`` or ``cpu:N``, or what the user calls a virtual device; unique.
        kind: what profiles are looked up by: ``cpu-N`` for N cores, or a product such as
            ``NVIDIA H200``.
        memory_bytes: the memory that its instances may take together.
        cores: for a CPU device the ids of its cores, else empty.
        pool: devices that name the same pool share their memory, of which each carries the whole
            size; empty for memory of its own.
    """

    name: str
    kind: str
    memory_bytes: int
    cores: tuple[int, ...] = ()
    pool: str = ""

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU: all are whose name or kind does not begin with ``cpu``."""
        return not any(text.lower().startswith("cpu") for text in (self.name, self.kind))


@dataclass(frozen=True)
class MemoryDomain:
    """Memory that one or several devices (by index) share."""

    devices: tuple[int, ...]
    memory_bytes: int


@dataclass(frozen=True)
class Problem:
    """Members to be placed on devices; devices of one pool share their memory.

    A missing profile means that the combination is not available. `row_s` is, by device name, the
    seconds that each row of traffic costs a device apart from its predictions: the part of the
    front-end and the combiner that run on its cores. `demand` is, by member, how many rows it
    predicts per row of traffic: less than 1 if only some ensembles, or later stages of a cascade,
    ask for it; 1 if it is not given. `idle_watts` is, by device name, what a device draws as soon
    as it has an instance, as far as that is known.

    Raises:
        ValueError: if there is no member or no device, a name is repeated, or a demand is not above
            0 or not of a member.
    """

    members: tuple[str, ...]
    devices: tuple[Device, ...]
    profiles: Profiles
    row_s: Mapping[str, float] = field(default_factory=dict)
    demand: Mapping[str, float] = field(default_factory=dict)
    idle_watts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for member, rows in self.demand.items():
            if member not in self.members:
                raise ValueError(f"a demand of member {member!r}, which is not there")
            if not 0 < rows < math.inf:
                raise ValueError(f"the demand of member {member!r} should be above 0, not {rows}")
        names = [device.name for device in self.devices]
        for what, listed in (("member", list(self.members)), ("device", names)):
            if not listed:
                raise ValueError(f"there is no {what}")
            if len(set(listed)) < len(listed):
                twice = next(name for i, name in enumerate(listed) if name in listed[:i])
                raise ValueError(f"{what} {twice!r} is there twice")

    @cached_property
    def demands(self) -> tuple[float, ...]:
        """Rows of each member per row of traffic."""
        return tuple(self.demand.get(member, 1.0) for member in self.members)

    @cached_property
    def memory_domains(self) -> tuple[MemoryDomain, ...]:
        """The memories, in the order of their first device."""
        members: dict[tuple[str, str], list[int]] = {}
        for index, device in enumerate(self.devices):
            key = ("pool", device.pool) if device.pool else ("device", device.name)
            members.setdefault(key, []).append(index)
        return tuple(
            MemoryDomain(tuple(indices), min(self.devices[i].memory_bytes for i in indices))
            for indices in members.values()
        )

    @cached_property
    def domain_of(self) -> tuple[int, ...]:
        """The index of each device's memory domain."""
        where = {
            d: index for index, domain in enumerate(self.memory_domains) for d in domain.devices
        }
        return tuple(where[d] for d in range(len(self.devices)))

    def options(self, device: int, member: int) -> tuple[Profile, ...]:
        """The instances of a member that fit an empty device, by ascending batch size."""
        return self._options[device][member]

    def efficient(self, device: int, member: int) -> tuple[Profile, ...]:
        """Those of the options that no other beats in both memory and rows/s, both ascending."""
        return self._efficient[device][member]

    @cached_property
    def _efficient(self) -> tuple[tuple[tuple[Profile, ...], ...], ...]:
        return tuple(tuple(map(_efficient, options)) for options in self._options)

    @cached_property
    def _options(self) -> tuple[tuple[tuple[Profile, ...], ...], ...]:
        known: dict[tuple[str, int], tuple[tuple[Profile, ...], ...]] = {}
        table = []
        for index, device in enumerate(self.devices):
            capacity = self.memory_domains[self.domain_of[index]].memory_bytes
            key = (device.kind, capacity)
            if key not in known:
                known[key] = tuple(
                    tuple(
                        one
                        for one in self.profiles.of(member, device.kind).values()
                        if one.memory_bytes <= capacity
                    )
                    for member in self.members
                )
            table.append(known[key])
        return tuple(table)

    def profile(self, device: int, member: int, batch: int) -> Profile:
        """The profile of one possible instance.

        Raises:
            KeyError: if it is not available.
        """
        return self.profiles.of(self.members[member], self.devices[device].kind)[batch]

    def row_seconds(self, device: int) -> float:
        """Seconds that each row of traffic costs a device apart from its predictions."""
        return self.row_s.get(self.devices[device].name, 0.0)

    def empty(self) -> Cells:
        """Cells without any instance."""
        return np.zeros((len(self.devices), len(self.members)), np.int64)

    def used_bytes(self, cells: Cells) -> npt.NDArray[np.int64]:
        """What the instances take in each memory domain.

        Raises:
            KeyError: if an instance is not available.
        """
        used = np.zeros(len(self.memory_domains), np.int64)
        for device, member in np.argwhere(cells):
            batch = int(cells[device, member])
            used[self.domain_of[device]] += self.profile(device, member, batch).memory_bytes
        return used

    @cached_property
    def capacity_bytes(self) -> npt.NDArray[np.int64]:
        """What the instances may take in each memory domain."""
        return np.array([domain.memory_bytes for domain in self.memory_domains], np.int64)

    def left_per_domain(self, cells: Cells) -> npt.NDArray[np.int64]:
        """The memory that is left in each memory domain."""
        return self.capacity_bytes - self.used_bytes(cells)

    def left_bytes(self, cells: Cells) -> dict[str, int]:
        """The memory that is left, by device name."""
        left = self.left_per_domain(cells)
        return {one.name: int(left[self.domain_of[i]]) for i, one in enumerate(self.devices)}

    def faults(self, matrix: AllocationMatrix) -> list[str]:
        """Why a matrix can't be used here, a line each; empty if it is feasible."""
        problems = [f"member {name!r} has no column" for name in self.members
                    if name not in matrix.members]  # fmt: skip
        problems += [f"member {name!r} is not there" for name in matrix.members
                     if name not in self.members]  # fmt: skip
        names = [device.name for device in self.devices]
        problems += [f"device {name!r} is not there" for name in matrix.devices
                     if name not in names]  # fmt: skip
        if problems:
            return problems
        for device, member, batch in matrix.instances():
            kind = self.devices[names.index(device)].kind
            if batch not in self.profiles.of(member, kind):
                problems.append(f"member {member!r} has no batch size {batch} on {device} ({kind})")
        if problems:
            return problems
        for domain, used in zip(
            self.memory_domains, self.used_bytes(self.cells_of(matrix)), strict=True
        ):
            if used > domain.memory_bytes:
                where = " + ".join(names[d] for d in domain.devices)
                problems.append(
                    f"{where}: its instances take {readable_bytes(int(used))}, "
                    f"it has {readable_bytes(domain.memory_bytes)}"
                )
        return problems

    def matrix(self, cells: Cells) -> AllocationMatrix:
        """Return the matrix of some cells.

        Raises:
            ValueError: if a member has no instance.
        """
        return AllocationMatrix(
            members=self.members,
            devices=tuple(device.name for device in self.devices),
            cells=tuple(tuple(int(batch) for batch in row) for row in cells),
        )

    def cells_of(self, matrix: AllocationMatrix) -> Cells:
        """Return the cells of a matrix over these members and some of these devices."""
        cells = self.empty()
        row = {device.name: index for index, device in enumerate(self.devices)}
        column = {name: index for index, name in enumerate(self.members)}
        for device, member, batch in matrix.instances():
            cells[row[device], column[member]] = batch
        return cells

    def refuse(self, member: int, left: Mapping[str, int]) -> NoPlaceError:
        """Return the error that says that a member finds no place."""
        smallest: dict[str, Profile] = {}
        for device in self.devices:
            batches: Iterable[Profile] = self.profiles.of(
                self.members[member], device.kind
            ).values()
            if least := min(batches, key=lambda one: one.memory_bytes, default=None):
                smallest[device.name] = least
        if not smallest:
            return NoPlaceError(self.members[member], None, 0, {}, 0)
        best = min(smallest, key=lambda name: smallest[name].memory_bytes - left[name])
        needed = smallest[best]
        short = needed.memory_bytes - left[best]
        usable = {name: left[name] for name in smallest}
        return NoPlaceError(self.members[member], needed.memory_bytes, needed.batch, usable, short)


def _efficient(options: Iterable[Profile]) -> tuple[Profile, ...]:
    best: list[Profile] = []
    for one in sorted(options, key=lambda one: (one.memory_bytes, -one.rows_per_s)):
        if not best or one.rows_per_s > best[-1].rows_per_s:
            best.append(one)
    return tuple(best)


def readable_bytes(size: int) -> str:
    """Return a size for people, e.g. ``1.5 GiB``."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(size) >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size} byte" if size == 1 else f"{size} bytes"
