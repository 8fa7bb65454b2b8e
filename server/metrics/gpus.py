"""What NVML tells of the GPUs that members are on.

Runs in a thread of the front-end. What NVML does not tell is left out: some GPUs have no energy
counter, slices of a GPU hardly anything, and many machines have no NVML.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from workers.profiler.gauges import gpu_handle
from workers.runtime.spec import DeviceSpec

__all__ = ["ENERGY", "MEMORY", "MEMORY_USED", "POWER", "TEMPERATURE", "UTILIZATION", "Gpus"]

_log = logging.getLogger(__name__)

MEMORY, MEMORY_USED, UTILIZATION = "memory", "memory used", "utilization"
POWER, ENERGY, TEMPERATURE = "power", "energy", "temperature"
#: How NVML is asked: in bytes, as a share, in watts, in joules, in degrees Celsius.
_QUESTIONS: dict[str, Callable[[Any, Any], float]] = {
    MEMORY: lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    MEMORY_USED: lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    UTILIZATION: lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    POWER: lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    ENERGY: lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000,
    TEMPERATURE: lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
}


def _load_nvml() -> Any:
    """The module that speaks with NVML.

    Raises:
        ImportError: if it is not installed.
    """
    import pynvml  # noqa: PLC0415 (hosts without GPUs need not pay for it)

    return pynvml


class Gpus:
    """The GPUs, each once, however many devices are parts of it.

    Args:
        devices: all that members are on.
        load: gives the module that speaks with NVML.

    Attributes:
        of_device: the UUID of each device's GPU, as far as it is known.
    """

    def __init__(self, devices: Sequence[DeviceSpec], load: Callable[[], Any] = _load_nvml) -> None:
        self._devices = [device for device in devices if device.is_cuda]
        self._load = load
        self._nvml: Any = None
        self._handles: dict[str, Any] | None = None
        self.of_device = {device.name: device.uuid for device in self._devices}

    def read(self) -> dict[str, dict[str, float]]:
        """What each GPU says, by question and UUID."""
        if self._handles is None:
            self._handles = self._find() if self._devices else {}
        told: dict[str, dict[str, float]] = {question: {} for question in _QUESTIONS}
        for uuid, handle in self._handles.items():
            for question, ask in _QUESTIONS.items():
                try:
                    told[question][uuid] = float(ask(self._nvml, handle))
                except self._nvml.NVMLError as error:
                    _log.debug("NVML does not tell the %s of %s: %s", question, uuid, error)
        return told

    def _find(self) -> dict[str, Any]:
        handles: dict[str, Any] = {}
        try:
            self._nvml = self._load()
            self._nvml.nvmlInit()
            for device in self._devices:
                handle = gpu_handle(self._nvml, device)
                uuid = str(self._nvml.nvmlDeviceGetUUID(handle))
                handles[uuid] = handle
                self.of_device[device.name] = uuid
        except Exception as error:  # of whatever kind: a server without these metrics serves
            _log.warning("there are no metrics of some GPUs, for NVML can't tell: %s", error)
        return handles
