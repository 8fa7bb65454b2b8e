"""Finds the CUDA devices through NVML, without starting CUDA in this process.

Runs in the process that plans an allocation; the driver's answers flow in, `Gpu`s flow out.
A host without the driver has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Gpu", "find_gpus", "visible_indices"]


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Attributes:
        name: ``cuda:N``, where N counts the devices that CUDA_VISIBLE_DEVICES leaves visible.
        kind: the product's name, e.g. ``NVIDIA H200``.
        free_bytes: memory that nobody uses at present.
    """

    name: str
    kind: str
    free_bytes: int


def find_gpus() -> list[Gpu]:
    """Return the visible GPUs in CUDA's order.

    NVML counts by PCI bus, so CUDA does the same only under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``,
    which matters on hosts with different GPUs.
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


def visible_indices(setting: str | None, uuids: Sequence[str]) -> list[int]:
    """Return which GPUs CUDA would show, in the order in which it numbers them.

    Args:
        setting: the value of CUDA_VISIBLE_DEVICES, None if it is not set. Its entries are
            indices or UUIDs (or unambiguous beginnings of them); as in CUDA, an entry that
            names no GPU hides the entries after it.
        uuids: the UUIDs of the host's GPUs in NVML's order.
    """
    if setting is None:
        return list(range(len(uuids)))
    visible: list[int] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isdecimal():
            matches = [int(entry)] if int(entry) < len(uuids) else []
        else:
            matches = [i for i, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(matches) != 1 or matches[0] in visible:
            break
        visible.append(matches[0])
    return visible


def _query(nvml: Any, setting: str | None) -> Iterator[Gpu]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    for number, index in enumerate(visible_indices(setting, uuids)):
        yield Gpu(
            name=f"cuda:{number}",
            kind=_text(nvml.nvmlDeviceGetName(handles[index])),
            free_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handles[index]).free),
        )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
