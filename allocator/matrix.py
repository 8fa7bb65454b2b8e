"""The allocation matrix: which member runs on which device, with what batch size.

Pure data, used in the process that plans an allocation. Plans flow in, instances and the
allocation file flow out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from allocator.documents import decode

__all__ = ["AllocationMatrix"]


@dataclass(frozen=True)
class AllocationMatrix:
    """Devices x members; 0 is no instance, b > 0 an instance with batch size b.

    `cells` has one row of batch sizes per device.

    Raises:
        ValueError: if a name is repeated, the shape is wrong, a batch size is negative, or a
            member has no instance.
    """

    members: tuple[str, ...]
    devices: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("there is no member")
        for what, names in (("member", self.members), ("device", self.devices)):
            if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
                raise ValueError(f"{what} {repeated[0]!r} is there twice")
        if len(self.cells) != len(self.devices):
            raise ValueError(f"{len(self.cells)} rows for {len(self.devices)} devices")
        for device, row in zip(self.devices, self.cells, strict=True):
            if len(row) != len(self.members):
                raise ValueError(f"{len(row)} cells for {len(self.members)} members on {device}")
            if min(row, default=0) < 0:
                raise ValueError(f"a negative batch size on {device}")
        for column, member in enumerate(self.members):
            if not any(row[column] for row in self.cells):
                raise ValueError(f"member {member!r} has no instance")

    def instances(self) -> Iterator[tuple[str, str, int]]:
        """Yield (device, member, batch size) of every instance, device by device."""
        for device, row in zip(self.devices, self.cells, strict=True):
            for member, batch in zip(self.members, row, strict=True):
                if batch:
                    yield device, member, batch

    def batch(self, device: str, member: str) -> int:
        """Return the batch size of one cell, 0 if there is no instance."""
        return self.cells[self.devices.index(device)][self.members.index(member)]

    def to_json(self, **extra: Any) -> str:
        """Return the allocation file's text, with `extra` keys, e.g. ``solver``."""
        document = {"members": self.members, "devices": self.devices, "matrix": self.cells}
        return json.dumps(document | extra)

    @classmethod
    def from_json(cls, text: str | bytes) -> AllocationMatrix:
        """Return the matrix of an allocation file; only its first three keys are read.

        Raises:
            ValueError: in one line, if the text is not a valid allocation.
        """
        file = decode(text, _AllocationFile)
        return cls(file.members, file.devices, file.matrix)


class _AllocationFile(msgspec.Struct):
    members: tuple[str, ...]
    devices: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
