"""Tells how much of a device's memory is taken: by this process, or on this GPU by anybody.

Runs in the profiler's child. What the kernel and NVML tell flows in, bytes flow out. The front-end
finds GPUs in NVML in the same way.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Protocol

from workers.runtime.spec import DeviceSpec

__all__ = ["GpuGauge", "MemoryGauge", "ResidentGauge", "gauge_of", "gpu_handle"]


class MemoryGauge(Protocol):
    """Tells how much of the device's memory is taken, in bytes."""

    def now(self) -> int:
        """Bytes that are taken at present."""

    def restart_peak(self) -> None:
        """Forget the peak so far."""

    def peak(self) -> int:
        """Bytes that were taken at most since the peak was restarted."""


def gauge_of(device: DeviceSpec) -> MemoryGauge:
    """Return the gauge of the memory that members on a device take.

    Args:
        device: the one that this process works for.
    """
    return GpuGauge(device) if device.is_cuda else ResidentGauge()


def gpu_handle(nvml: Any, device: DeviceSpec) -> Any:
    """Return NVML's handle of a GPU; `nvml` was initialised before.

    Raises:
        nvml.NVMLError: if NVML does not know it.
    """
    if device.uuid:  # it may also name a slice of a GPU, which an index can't
        return nvml.nvmlDeviceGetHandleByUUID(device.uuid)
    return nvml.nvmlDeviceGetHandleByIndex(device.cuda_index)


class ResidentGauge:
    """RAM of this process, shared memory (the arena) excepted."""

    def __init__(self) -> None:
        self._knows_peak = False

    def now(self) -> int:
        """Bytes that are resident at present."""
        return _status_bytes("VmRSS") - _status_bytes("RssShmem")

    def restart_peak(self) -> None:
        """Forget the peak so far."""
        with contextlib.suppress(OSError):  # then activations freed after a run go unseen
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._knows_peak = True

    def peak(self) -> int:
        """Bytes that were resident at most since the peak was restarted."""
        # The arena was touched before: what is shared has not changed since the peak.
        if self._knows_peak:
            return _status_bytes("VmHWM") - _status_bytes("RssShmem")
        return self.now()


class GpuGauge:
    """Memory taken on a GPU, by whomever: in a container NVML can't tell processes apart.

    The runtimes keep what they have once taken, so the present is the peak.

    Args:
        device: a GPU.
    """

    def __init__(self, device: DeviceSpec) -> None:
        import pynvml  # noqa: PLC0415 (hosts without GPUs need not pay for it)

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._handle = gpu_handle(pynvml, device)

    def now(self) -> int:
        """Bytes that are taken at present."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def restart_peak(self) -> None:
        """Nothing to restart."""

    def peak(self) -> int:
        """As `now`."""
        return self.now()


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"the kernel does not tell {key}")
