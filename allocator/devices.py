"""The devices that members can be placed on: found on this host, or chosen by the user.

Runs in the process that plans an allocation; what the host has flows in, `Device`s with a
memory budget each flow out. CPU devices share one budget, since they share the RAM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allocator.gpus import Gpu, find_gpus
from allocator.host import available_cores, core_groups, memory_limit_bytes

__all__ = ["Device", "Wanted", "discover", "memory_limit_bytes", "select"]

#: What a CUDA context and the runtime's own buffers take on a GPU before any model is loaded.
_CONTEXT_BYTES = 512 << 20


@dataclass(frozen=True)
class Device:
    """Something that runs predictions.

    Attributes:
        name: ``cuda:N`` or ``cpu:N``, unique.
        kind: what profiles are looked up by, e.g. ``cpu`` or ``NVIDIA H200``.
        memory_bytes: the memory that its instances may take together.
        cores: for a CPU device the ids of its cores, else empty.
        pool: devices that name the same pool share their memory; empty for memory of its own.
    """

    name: str
    kind: str
    memory_bytes: int
    cores: tuple[int, ...] = ()
    pool: str = ""

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU."""
        return self.name.startswith("cuda:")


@dataclass(frozen=True)
class Wanted:
    """A device that the user asked for.

    Attributes:
        name: ``cuda:N`` or ``cpu:N``.
        cores: for a CPU device the ids of its cores; None for all.
        memory_bytes: its memory budget; None for what is there.
    """

    name: str
    cores: tuple[int, ...] | None = None
    memory_bytes: int | None = None


def discover(*, reserve_bytes: int) -> list[Device]:
    """Return every GPU, then the CPU's cores in groups.

    Args:
        reserve_bytes: RAM that CPU devices must leave to others (arena, front-end, combiner).
    """
    groups = core_groups(available_cores())
    share = _ram_bytes(reserve_bytes) // len(groups)
    cpus = [Device(f"cpu:{i}", "cpu", share, group) for i, group in enumerate(groups)]
    return [*map(_gpu_device, find_gpus()), *cpus]


def select(wanted: Sequence[Wanted], *, reserve_bytes: int) -> list[Device]:
    """Return the devices the user asked for, in that order.

    Args:
        wanted: the devices; CPU devices without a budget share equally what the others leave.
        reserve_bytes: RAM that CPU devices must leave to others (arena, front-end, combiner).

    Raises:
        ValueError: if the host has no such GPU or core.
    """
    cpus = [one for one in wanted if not one.name.startswith("cuda:")]
    gpus = {gpu.name: gpu for gpu in find_gpus()} if len(cpus) < len(wanted) else {}
    cores = available_cores()
    claimed = sum(one.memory_bytes or 0 for one in cpus)
    sharers = sum(one.memory_bytes is None for one in cpus)
    share = _ram_bytes(reserve_bytes + claimed) // max(sharers, 1)

    def device(one: Wanted) -> Device:
        if one in cpus:
            own = tuple(cores) if one.cores is None else one.cores
            if absent := sorted(set(own) - set(cores)):
                raise ValueError(f"{one.name}: this process may not run on core {absent[0]}")
            return Device(one.name, "cpu", one.memory_bytes or share, own)
        if one.name not in gpus:
            there = ", ".join(gpus) or "none"
            raise ValueError(f"{one.name}: there is no such GPU (visible here: {there})")
        found = _gpu_device(gpus[one.name])
        return Device(found.name, found.kind, one.memory_bytes or found.memory_bytes)

    return [device(one) for one in wanted]


def _gpu_device(gpu: Gpu) -> Device:
    return Device(gpu.name, gpu.kind, max(gpu.free_bytes - _CONTEXT_BYTES, 0))


def _ram_bytes(reserve_bytes: int) -> int:
    return max(memory_limit_bytes() - reserve_bytes, 0)
