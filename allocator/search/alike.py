"""Which CPU devices are divided alike, and what members cost on the parts that they may have.

Pure, used by `allocator.search.counting`; a `Divisible` problem flows in, classes of devices and a
catalogue of their parts flow out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from allocator.division import Divisible, part_kind
from allocator.problem import Device, Problem

__all__ = ["AlikeDevices", "alike_devices", "part_catalogue"]


@dataclass(frozen=True)
class AlikeDevices:
    """Devices that are divided alike, into parts of `sizes` cores; or one that is not divided.

    `worker_bytes` is what a worker takes on a part of each size; `domain` is the index of the
    devices' memory, and `row_s` what a row costs each of them beside its predictions, in seconds.
    """

    names: tuple[str, ...]
    domain: int
    cores: int
    sizes: tuple[int, ...]
    kinds: tuple[str, ...]
    worker_bytes: tuple[int, ...]
    row_s: float
    is_divisible: bool

    def most(self, size: int) -> int:
        """How many parts of a size, or bigger, there can be."""
        return len(self.names) * (self.cores // size)


def alike_devices(divisible: Divisible) -> list[AlikeDevices]:
    """Group the devices that are divided alike, and share their memory."""
    whole = divisible.whole
    groups: dict[object, list[int]] = {}
    for index, device in enumerate(whole.devices):
        key: object = device.name
        if device.name in divisible.counts:
            counts = divisible.counts[device.name]
            key = len(device.cores), counts, whole.domain_of[index], whole.row_seconds(index)
        groups.setdefault(key, []).append(index)
    found = []
    for indices in groups.values():
        device = whole.devices[indices[0]]
        is_divisible = device.name in divisible.counts
        sizes = divisible.counts[device.name] if is_divisible else (1,)
        kinds = tuple(map(part_kind, sizes)) if is_divisible else (device.kind,)
        found.append(
            AlikeDevices(
                names=tuple(whole.devices[index].name for index in indices),
                domain=whole.domain_of[indices[0]],
                cores=len(device.cores) if is_divisible else 1,
                sizes=sizes,
                kinds=kinds,
                worker_bytes=tuple(divisible.worker_bytes.get(kind, 0) for kind in kinds),
                row_s=whole.row_seconds(indices[0]),
                is_divisible=is_divisible,
            )
        )
    return found


def part_catalogue(divisible: Divisible, classes: Sequence[AlikeDevices]) -> Problem:
    """What the members cost on a part of each size of each class, the parts as devices."""
    whole = divisible.whole
    capacities = [domain.memory_bytes for domain in whole.memory_domains]
    devices = tuple(
        Device(f"{one.names[0]} {kind}", kind, capacities[one.domain] - worker_bytes)
        for one in classes
        for kind, worker_bytes in zip(one.kinds, one.worker_bytes, strict=True)
    )
    return replace(whole, devices=devices, row_s={})
