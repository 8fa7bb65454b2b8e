"""The devices that members can be placed on: found on this host, or chosen in the configuration.

Runs in the process that plans an allocation; the configuration, what the host and what the NVIDIA
driver report flow in, a `DeviceSpec` with a memory budget per device flows out. CPU devices without
a budget of their own share one: the RAM. GPUs are found through NVML, without starting CUDA in this
process; a GPU in MIG mode is not a device itself, its slices are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allocator.division import part_kind
from allocator.host import (
    MOST_SINGLE,
    allowed_cores,
    available_cores,
    core_groups,
    memory_limit_bytes,
)
from server.config import Config, DeviceConfig
from server.errors import ConfigError
from workers.runtime.spec import DeviceSpec

__all__ = [
    "Gpu",
    "arena_budget_bytes",
    "discover",
    "find_devices",
    "find_gpus",
    "select",
    "visible_devices",
]

_DEFAULT_ARENA_BYTES = 256 << 20
#: RAM left to the front-end, the combiner and the supervisor.
_PROCESSES_BYTES = 512 << 20
#: What a CUDA context and the runtime's own buffers take on a GPU before any model is loaded.
_CONTEXT_BYTES = 512 << 20
_RAM = "ram"


def arena_budget_bytes(config: Config) -> int:
    """Return the size of the shared memory for all arenas together."""
    return config.server.arena_bytes or min(_DEFAULT_ARENA_BYTES, memory_limit_bytes() // 10)


def find_devices(config: Config) -> list[DeviceSpec]:
    """Return the devices of a configuration, each with its memory budget.

    Raises:
        ConfigError: if a device that it names does not exist.
    """
    reserve = arena_budget_bytes(config) + _PROCESSES_BYTES
    if config.devices == "auto":
        is_divided = config.placement.threads != "device"
        return discover(reserve_bytes=reserve, is_divided=is_divided)
    return select(config.devices, reserve_bytes=reserve)


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: a GPU, or a MIG slice of one.

    In its name ``cuda:N``, N counts the devices that CUDA_VISIBLE_DEVICES leaves visible. Its kind
    is the product, e.g. ``NVIDIA H200`` or ``NVIDIA A100-SXM4-40GB MIG 1g.5gb``. A process whose
    CUDA_VISIBLE_DEVICES is the `uuid` sees it alone.
    """

    name: str
    kind: str
    free_bytes: int
    total_bytes: int
    uuid: str


def find_gpus() -> list[Gpu]:
    """Return the visible devices: GPUs in CUDA's order, MIG slices in that of their GPU.

    Unlike CUDA, which shows a process one MIG slice at most, this shows them all: each is for a
    process of its own. NVML counts GPUs by PCI bus, so an index in CUDA_VISIBLE_DEVICES means
    what it means to CUDA under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, and else on hosts where all
    GPUs are alike.
    """
    import pynvml  # noqa: PLC0415 (hosts without GPUs need not pay for it)

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return list(_query(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES")))
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def visible_devices(setting: str | None, gpus: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the UUIDs of the devices to use, in order.

    `setting` is CUDA_VISIBLE_DEVICES, None if not set: indices of GPUs, UUIDs of GPUs (which stand
    for all their slices) or of MIG slices, or unambiguous beginnings of UUIDs. As in CUDA, an entry
    that names nothing, or something a second time, hides those after it. `gpus` has, in NVML's
    order, by the UUID of each GPU its devices: itself, or its MIG slices.
    """
    if setting is None:
        return [uuid for devices in gpus.values() for uuid in devices]
    groups = {**gpus, **{uuid: [uuid] for devices in gpus.values() for uuid in devices}}
    visible: list[str] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isdecimal():
            matches = [list(gpus)[int(entry)]] if int(entry) < len(gpus) else []
        elif entry in groups:
            matches = [entry]
        else:
            matches = [uuid for uuid in groups if entry and uuid.startswith(entry)]
        if len(matches) != 1 or set(groups[matches[0]]) & set(visible):
            break
        visible += groups[matches[0]]
    return visible


def _query(nvml: Any, setting: str | None) -> Iterator[Gpu]:
    gpus: dict[str, list[str]] = {}
    handles: dict[str, Any] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        devices = {nvml.nvmlDeviceGetUUID(handle): handle for handle in _devices(nvml, gpu)}
        gpus[nvml.nvmlDeviceGetUUID(gpu)] = list(devices)
        handles |= devices
    for number, uuid in enumerate(visible_devices(setting, gpus)):
        memory = nvml.nvmlDeviceGetMemoryInfo(handles[uuid])
        yield Gpu(
            name=f"cuda:{number}",
            kind=nvml.nvmlDeviceGetName(handles[uuid]),
            free_bytes=int(memory.free),
            total_bytes=int(memory.total),
            uuid=uuid,
        )


def _devices(nvml: Any, gpu: Any) -> list[Any]:
    """Return the handles of a GPU's MIG slices, or its own if it is not divided."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(gpu)
    except nvml.NVMLError:  # this GPU, or this driver, knows no MIG
        return [gpu]
    if current != nvml.NVML_DEVICE_MIG_ENABLE:
        return [gpu]
    slices = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))
        except nvml.NVMLError:  # no slice has this index; a later one may
            continue
    return slices


def discover(*, reserve_bytes: int, is_divided: bool = False) -> list[DeviceSpec]:
    """Return every GPU, then the CPU's cores in groups, which share the RAM but for a reserve.

    If a search divides them (`is_divided`), few cores are one group, too.
    """
    groups = enumerate(core_groups(available_cores(), most_single=0 if is_divided else MOST_SINGLE))
    wanted = [
        *(DeviceConfig(name=gpu.name) for gpu in find_gpus()),
        *(DeviceConfig(name=f"cpu:{number}", cores=cores) for number, cores in groups),
    ]
    return select(wanted, reserve_bytes=reserve_bytes)


def select(wanted: Sequence[DeviceConfig], *, reserve_bytes: int) -> list[DeviceSpec]:
    """Return the requested devices; CPU devices without a budget share the RAM that is left.

    Raises:
        ConfigError: if the host has no such GPU or core, or not so much memory on a GPU.
    """
    gpus = {gpu.name: gpu for gpu in find_gpus()} if any(one.is_cuda for one in wanted) else {}
    claimed = sum(one.memory_bytes or 0 for one in wanted if not one.is_cuda)
    ram_bytes = max(memory_limit_bytes() - reserve_bytes - claimed, 0)
    devices = []
    for one in wanted:
        if not one.is_cuda:
            devices.append(_cpu_device(one, ram_bytes))
        elif one.source in gpus:
            devices.append(_gpu_device(one, gpus[one.source]))
        else:
            label = f"{one.name} (part of {one.part_of})" if one.part_of else one.name
            there = ", ".join(gpus) or "none"
            raise ConfigError(f"devices: {label}: there is no such GPU (visible here: {there})")
    _check_gpu_memory(devices, gpus)
    return devices


def _cpu_device(one: DeviceConfig, ram_bytes: int) -> DeviceSpec:
    # A quota limits how many cores are taken by default, not which ones the user may name.
    cores = tuple(available_cores()) if one.cores is None else one.cores
    if absent := sorted(set(cores) - set(allowed_cores())):
        raise ConfigError(f"devices: {one.name}: this process may not run on core {absent[0]}")
    return DeviceSpec(
        one.name,
        part_kind(len(cores)),
        ram_bytes if one.memory_bytes is None else one.memory_bytes,
        cores,
        pool=_RAM if one.memory_bytes is None else "",
        virtual=bool(one.part_of),
        watts=one.watts,
    )


def _gpu_device(one: DeviceConfig, gpu: Gpu) -> DeviceSpec:
    memory_bytes = one.memory_bytes
    if memory_bytes is None:
        fraction = 1.0 if one.memory_fraction is None else one.memory_fraction
        # Each part is a process of its own, with a context of its own.
        memory_bytes = max(int(gpu.free_bytes * fraction) - _CONTEXT_BYTES, 0)
    return DeviceSpec(
        one.name,
        gpu.kind,
        memory_bytes,
        uuid=gpu.uuid,
        virtual=bool(one.part_of),
        watts=one.watts,
    )


def _check_gpu_memory(devices: Sequence[DeviceSpec], gpus: Mapping[str, Gpu]) -> None:
    for gpu in gpus.values():
        parts = [device for device in devices if device.uuid == gpu.uuid]
        total_bytes = sum(device.memory_bytes for device in parts)
        if total_bytes > gpu.total_bytes:
            names = " and ".join(device.name for device in parts)
            raise ConfigError(
                f"devices: {names}: memory_bytes of {total_bytes / 2**30:.1f} GiB in all is more "
                f"than {gpu.name} has ({gpu.total_bytes / 2**30:.1f} GiB), lower it"
            )
