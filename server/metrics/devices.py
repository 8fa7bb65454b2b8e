"""Metrics of the devices and, through NVML, of their GPUs.

Runs in the front-end's event loop; NVML is called in a thread. What NVML does not have is left out:
some GPUs have no energy counter, slices of a GPU hardly anything, and many machines have no NVML.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from server.metrics.energy import DeviceEnergy, EnergyReader
from server.metrics.exposition import Counters, Family, Gauges
from server.metrics.sampler import Sampler
from workers.profiler.energy import NVML, energy_meters
from workers.profiler.gauges import gpu_handle
from workers.runtime.spec import DeviceSpec

__all__ = ["DeviceMetrics"]

_log = logging.getLogger(__name__)


class _Gpu(NamedTuple):
    """NVML and its handle of a GPU."""

    nvml: Any
    handle: Any


_GPU_METRICS = (
    Gauges.define(
        "ensembled_gpu_memory_bytes",
        "Total memory of the GPU.",
        lambda gpu: gpu.nvml.nvmlDeviceGetMemoryInfo(gpu.handle).total,
    ),
    Gauges.define(
        "ensembled_gpu_memory_used_bytes",
        "Used memory of the GPU.",
        lambda gpu: gpu.nvml.nvmlDeviceGetMemoryInfo(gpu.handle).used,
    ),
    Gauges.define(
        "ensembled_gpu_utilization_ratio",
        "Share of the time during which the GPU was executing.",
        lambda gpu: gpu.nvml.nvmlDeviceGetUtilizationRates(gpu.handle).gpu / 100,
    ),
    Gauges.define(
        "ensembled_gpu_power_watts",
        "Power draw of the GPU.",
        lambda gpu: gpu.nvml.nvmlDeviceGetPowerUsage(gpu.handle) / 1000,
    ),
    Gauges.define(
        "ensembled_gpu_temperature_celsius",
        "Temperature of the GPU.",
        lambda gpu: gpu.nvml.nvmlDeviceGetTemperature(gpu.handle, gpu.nvml.NVML_TEMPERATURE_GPU),
    ),
    Counters.define(
        "ensembled_gpu_energy_joules_total",
        "Energy that the GPU has used since its driver was loaded.",
        lambda gpu: gpu.nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle) / 1000,
    ),
)


class DeviceMetrics:
    """Collects the metrics of devices and of GPUs, each once, however many devices are on it.

    Devices may come to `devices`, and go.

    `load` returns the module `pynvml`, which hosts without GPUs need not pay for; `busy_s` the
    seconds that each device was busy; `root` has the kernel's files. `gpu_of_device` has the UUID
    of each device's GPU, as far as it is known.
    """

    def __init__(
        self,
        devices: Collection[DeviceSpec],
        load: Callable[[], Any] = NVML,
        *,
        busy_s: Callable[[], Mapping[str, float]] = dict,
        root: Path = Path("/"),
    ) -> None:
        self._devices = devices
        self._load = load
        self._busy_s = busy_s
        self._reader = EnergyReader(partial(energy_meters, root=root, load=load))
        self._energy = DeviceEnergy()
        self._counted: Mapping[str, float] | None = None
        self._gpus: dict[str, _Gpu] = {}
        self._looked_up: set[str] = set()
        self.gpu_of_device: dict[str, str] = {}
        self._sampler = Sampler(lambda: (self.read(), self._reader.read(self._devices)), "nvml")

    async def collect(self) -> AsyncIterator[Family[Any]]:
        """Yield those of GPUs before `device_info`: NVML finds the GPU of a device."""
        yield Gauges(
            "ensembled_device_memory_budget_bytes",
            "Memory that all instances on the device may use together.",
            ("device",),
            (((device.name,), device.memory_bytes) for device in self._devices),
        )
        values, counted = await self._sampler.sample()
        if counted is not self._counted:
            self._counted = counted
            self._energy.add(counted, self._reader.of_device, self._busy_s())
        yield Counters(
            "ensembled_device_energy_joules_total",
            "Energy that the device has used, or is estimated to have, since its first scrape.",
            ("device", "source"),
            (
                ((one.name, self._reader.source(one)), self._energy.joules[one.name])
                for one in self._reader.of_device
                if one.name in self._energy.joules
            ),
        )
        for metric in _GPU_METRICS:
            yield metric.of(("gpu",), (((gpu,), it) for gpu, it in values[metric.name].items()))
        yield Gauges(
            "ensembled_device_info",
            "The device, and the GPU that it is on.",
            ("device", "kind", "gpu"),
            (
                ((device.name, device.kind, self.gpu_of_device.get(device.name, device.uuid)), 1)
                for device in self._devices
            ),
        )

    def read(self) -> dict[str, dict[str, float]]:
        """Read the metrics of all GPUs: values by metric name and UUID."""
        devices = [one for one in tuple(self._devices) if one.is_cuda]
        if new := [one for one in devices if one.name not in self._looked_up]:
            self._looked_up = {one.name for one in devices}
            try:
                self._find_gpus(new)
            except Exception as error:  # of any kind: the server works without these metrics
                _log.warning("some GPUs have no metrics, because NVML failed: %s", error)
        values: dict[str, dict[str, float]] = {metric.name: {} for metric in _GPU_METRICS}
        for uuid, gpu in self._gpus.items():
            for metric in _GPU_METRICS:
                try:
                    values[metric.name][uuid] = float(metric.value(gpu))
                except gpu.nvml.NVMLError as error:
                    _log.debug("NVML has no %s of %s: %s", metric.name, uuid, error)
        return values

    def _find_gpus(self, devices: Collection[DeviceSpec]) -> None:
        nvml = self._load()
        nvml.nvmlInit()
        for device in devices:
            handle = gpu_handle(nvml, device)
            uuid = str(nvml.nvmlDeviceGetUUID(handle))
            self._gpus[uuid] = _Gpu(nvml, handle)
            self.gpu_of_device[device.name] = uuid
