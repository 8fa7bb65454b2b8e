"""Measures the memory in use: by this process, or on a GPU by all processes.

Runs in the profiler's child. Figures of the kernel and of NVML flow in, bytes flow out. The
front-end looks up GPUs in NVML by `gpu_handle`, too.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from workers.runtime.spec import DeviceSpec

__all__ = ["GpuGauge", "ResidentGauge", "gpu_handle", "memory_gauge"]


def memory_gauge(device: DeviceSpec) -> ResidentGauge | GpuGauge:
    """Return the gauge of the memory that members on this process's device use."""
    return GpuGauge(device) if device.is_cuda else ResidentGauge()


def gpu_handle(nvml: Any, device: DeviceSpec) -> Any:
    """Return NVML's handle of a GPU, after `nvml` was initialised.

    Raises:
        nvml.NVMLError: if NVML does not know it.
    """
    if device.uuid:  # may also be a slice of a GPU, which has no index
        return nvml.nvmlDeviceGetHandleByUUID(device.uuid)
    return nvml.nvmlDeviceGetHandleByIndex(device.cuda_index)


class ResidentGauge:
    """RAM of this process, without shared memory (the arena)."""

    def __init__(self) -> None:
        self._has_peak = False

    def now(self) -> int:
        """Return the resident bytes."""
        return _status_bytes("VmRSS") - _status_bytes("RssShmem")

    def reset_peak(self) -> None:
        """Reset the kernel's peak."""
        with contextlib.suppress(OSError):  # then activations freed after a run are missed
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._has_peak = True

    def peak(self) -> int:
        """Return the most resident bytes since the peak was reset."""
        # All of the arena was touched before, so shared memory has not changed since the peak.
        return _status_bytes("VmHWM") - _status_bytes("RssShmem") if self._has_peak else self.now()


class GpuGauge:
    """Memory of a GPU in use by all processes: in a container NVML can't tell them apart.

    Runtimes keep the memory that they have once allocated, so the current usage is the peak.
    """

    def __init__(self, device: DeviceSpec) -> None:
        import pynvml  # noqa: PLC0415 (not on hosts without GPUs)

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._handle = gpu_handle(pynvml, device)

    def now(self) -> int:
        """Return the bytes in use now."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def reset_peak(self) -> None:
        """Do nothing."""

    def peak(self) -> int:
        """Return the bytes in use now."""
        return self.now()


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"the kernel does not report {key}")
