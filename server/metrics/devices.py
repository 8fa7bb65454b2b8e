"""Metrics of the devices: what they are, and how their GPUs do.

Runs in the front-end's event loop; GPUs are asked in a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from server.metrics.families import AnyFamily, Counters, Gauges
from server.metrics.gpus import (
    ENERGY,
    MEMORY,
    MEMORY_USED,
    POWER,
    TEMPERATURE,
    UTILIZATION,
    Gpus,
)
from server.metrics.sampler import Sampler
from workers.runtime.spec import DeviceSpec

__all__ = ["DeviceMetrics"]

_GPU = ("gpu",)
_GAUGES = (
    ("ensembled_gpu_memory_bytes", "The GPU's memory.", MEMORY),
    ("ensembled_gpu_memory_used_bytes", "What is taken of the GPU's memory.", MEMORY_USED),
    (
        "ensembled_gpu_utilization_ratio",
        "Share of the time in which the GPU ran anything.",
        UTILIZATION,
    ),
    ("ensembled_gpu_power_watts", "What the GPU draws.", POWER),
    ("ensembled_gpu_temperature_celsius", "How warm the GPU is.", TEMPERATURE),
)


class DeviceMetrics:
    """Collects them.

    Args:
        devices: all that members are on.
        gpus: those that they are on.
    """

    def __init__(self, devices: Sequence[DeviceSpec], gpus: Gpus) -> None:
        self._devices = devices
        self._gpus = gpus
        self._sampler = Sampler(gpus.read, "nvml")

    async def collect(self) -> AsyncIterator[AnyFamily]:
        """GPUs, then devices: NVML tells on which GPU they are."""
        yield Gauges(
            "ensembled_device_memory_budget_bytes",
            "Memory that the instances of the device may take together.",
            ("device",),
            (((device.name,), device.memory_bytes) for device in self._devices),
        )
        told = await self._sampler.sample()
        for name, text, question in _GAUGES:
            yield Gauges(name, text, _GPU, (((gpu,), it) for gpu, it in told[question].items()))
        yield Counters(
            "ensembled_gpu_energy_joules_total",
            "Energy that the GPU has used since its driver was loaded.",
            _GPU,
            (((gpu,), joules) for gpu, joules in told[ENERGY].items()),
        )
        yield Gauges(
            "ensembled_device_info",
            "The device, and on which GPU it is.",
            ("device", "kind", "gpu"),
            (
                ((device.name, device.kind, self._gpus.of_device.get(device.name, "")), 1)
                for device in self._devices
            ),
        )
