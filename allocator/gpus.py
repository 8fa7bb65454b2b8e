"""Finds the CUDA devices through NVML, without starting CUDA in this process.

Runs in the process that plans an allocation; the driver's answers flow in, `Gpu`s flow out.
A host without the driver has none. A GPU in MIG mode is not a device itself, its slices are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Gpu", "find_gpus", "visible_devices"]


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: a GPU, or a MIG slice of one.

    Attributes:
        name: ``cuda:N``, where N counts the devices that CUDA_VISIBLE_DEVICES leaves visible.
        kind: the product's name, e.g. ``NVIDIA H200`` or ``NVIDIA A100-SXM4-40GB MIG 1g.5gb``.
        free_bytes: memory that nobody uses at present.
        total_bytes: all its memory.
        uuid: what to set CUDA_VISIBLE_DEVICES to for a process that shall see it alone.
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

    Args:
        setting: the value of CUDA_VISIBLE_DEVICES, None if it is not set. Its entries are
            indices of GPUs, UUIDs of GPUs (which stand for all their slices) or UUIDs of MIG
            slices, or unambiguous beginnings of UUIDs; as in CUDA, an entry that names nothing,
            or something a second time, hides the entries after it.
        gpus: in NVML's order, by the UUID of each GPU its devices: itself, or its MIG slices.
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
        devices = {_uuid(nvml, handle): handle for handle in _devices(nvml, gpu)}
        gpus[_uuid(nvml, gpu)] = list(devices)
        handles |= devices
    for number, uuid in enumerate(visible_devices(setting, gpus)):
        memory = nvml.nvmlDeviceGetMemoryInfo(handles[uuid])
        yield Gpu(
            name=f"cuda:{number}",
            kind=_text(nvml.nvmlDeviceGetName(handles[uuid])),
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


def _uuid(nvml: Any, handle: Any) -> str:
    return _text(nvml.nvmlDeviceGetUUID(handle))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
