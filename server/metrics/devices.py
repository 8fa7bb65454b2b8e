"""Metrics of the devices and, through NVML, of their GPUs.

Runs in the front-end's event loop; NVML is called in a thread. What NVML does not have is left out:
some GPUs have no energy counter, slices of a GPU hardly anything, and many machines have no NVML.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from server.metrics.exposition import Counters, Family, Gauges
from server.metrics.sampler import Sampler
from workers.profiler.gauges import gpu_handle
from workers.runtime.spec import DeviceSpec

__all__ = ["DeviceMetrics", "Gpus"]

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


def _load_nvml() -> Any:
    """Import `pynvml`.

    Raises:
        ImportError: if it is not installed.
    """
    import pynvml  # noqa: PLC0415 (hosts without GPUs need not pay for it)

    return pynvml


class Gpus:
    """The GPUs, each once, however many devices are parts of it.

    Args:
        devices: all devices of the allocation.
        load: returns the module `pynvml`.

    Attributes:
        of_device: the UUID of each device's GPU, as far as it is known.
    """

    def __init__(self, devices: Sequence[DeviceSpec], load: Callable[[], Any] = _load_nvml) -> None:
        self._devices = [device for device in devices if device.is_cuda]
        self._load = load
        self._gpus: dict[str, _Gpu] | None = None
        self.of_device = {device.name: device.uuid for device in self._devices}

    def read(self) -> dict[str, dict[str, float]]:
        """Read the metrics of all GPUs: values by metric name and UUID."""
        if self._gpus is None:
            self._gpus = {}
            if self._devices:
                try:
                    self._find(self._gpus)
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

    def _find(self, gpus: dict[str, _Gpu]) -> None:
        nvml = self._load()
        nvml.nvmlInit()
        for device in self._devices:
            handle = gpu_handle(nvml, device)
            uuid = str(nvml.nvmlDeviceGetUUID(handle))
            gpus[uuid] = _Gpu(nvml, handle)
            self.of_device[device.name] = uuid


class DeviceMetrics:
    """Collects the metrics of devices and GPUs.

    Args:
        devices: all devices of the allocation.
        gpus: those that they are on.
    """

    def __init__(self, devices: Sequence[DeviceSpec], gpus: Gpus) -> None:
        self._devices = devices
        self._gpus = gpus
        self._sampler = Sampler(gpus.read, "nvml")

    async def collect(self) -> AsyncIterator[Family[Any]]:
        """GPUs before `device_info`: NVML finds the GPU of a device."""
        yield Gauges(
            "ensembled_device_memory_budget_bytes",
            "Memory that all instances on the device may use together.",
            ("device",),
            (((device.name,), device.memory_bytes) for device in self._devices),
        )
        values = await self._sampler.sample()
        for family, name, documentation, _ in _GPU_METRICS:
            samples = (((gpu,), value) for gpu, value in values[name].items())
            yield family(name, documentation, ("gpu",), samples)
        yield Gauges(
            "ensembled_device_info",
            "The device, and the GPU that it is on.",
            ("device", "kind", "gpu"),
            (
                ((device.name, device.kind, self._gpus.of_device.get(device.name, "")), 1)
                for device in self._devices
            ),
        )
