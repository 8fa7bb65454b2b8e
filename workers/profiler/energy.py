"""Meters the energy that devices have used: of GPUs through NVML, of CPU cores through RAPL.

Runs in the profiler's child and in the front-end. A device flows in, the meters that cover it flow
out: a GPU has its own; of CPU cores, the processor (package) that they are on has one, which other
devices may share. Where the driver or the kernel does not tell, there is none. Tests put the
kernel's files under another `root`, and another module in the place of `pynvml`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from workers.profiler.gauges import gpu_handle
from workers.runtime.spec import DeviceSpec

__all__ = ["NVML", "EnergyMeter", "EnergySource", "Power", "energy_meters", "measure_power"]

#: Where a figure is from: NVML's energy counter, its power draw over time, the kernel's RAPL
#: counter, or watts that the user has given.
EnergySource = Literal["nvml", "nvml-power", "rapl", "estimated"]

#: Loads the module `pynvml`, which hosts without GPUs need not pay for.
NVML = partial(import_module, "pynvml")

#: Counters are read no more often: NVML's change every 20 to 100 ms, RAPL's every millisecond.
_POLL_S = 0.01
#: A counter that has not changed after so many times the wanted seconds is broken.
_PATIENCE = 5
#: ... unless each run takes longer than that.
_LEAST_RUNS = 4


class EnergyMeter(Protocol):
    """Counts the energy of a GPU or of a processor.

    Attributes:
        name: the UUID of the GPU, or the name of the processor's zone, e.g. ``package-0``.
    """

    name: str
    source: EnergySource

    def joules(self) -> float:
        """Return a count that grows by the joules that were used.

        Raises:
            OSError or nvml.NVMLError: if it can't be read any more.
        """


def energy_meters(
    device: DeviceSpec, *, root: Path = Path("/"), load: Callable[[], Any] = NVML
) -> list[EnergyMeter]:
    """Return the meters that cover a device, none if the host does not tell.

    That is so for MIG slices, whose energy NVML does not have, and often for CPU devices: since
    2020 only root may read RAPL's counters.
    """
    return _gpu_meters(device, load) if device.is_cuda else _packages(device, root)


class _GpuMeter:
    """NVML's energy counter of a GPU, in the driver since Volta."""

    source: EnergySource = "nvml"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.name = str(nvml.nvmlDeviceGetUUID(handle))
        self._read = partial(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        self._read()

    def joules(self) -> float:
        return float(self._read()) / 1e3


class _PowerMeter:
    """A GPU's power draw over time, by the trapezoidal rule: the finer, the more often it is read.

    For GPUs older than Volta.
    """

    source: EnergySource = "nvml-power"

    def __init__(self, nvml: Any, handle: Any, clock: Callable[[], float]) -> None:
        self.name = str(nvml.nvmlDeviceGetUUID(handle))
        self._read = partial(nvml.nvmlDeviceGetPowerUsage, handle)
        self._clock = clock
        self._joules = 0.0
        self._at, self._watts = clock(), self._read() / 1e3

    def joules(self) -> float:
        now, watts = self._clock(), float(self._read()) / 1e3
        self._joules += (now - self._at) * (watts + self._watts) / 2
        self._at, self._watts = now, watts
        return self._joules


def _gpu_meters(device: DeviceSpec, load: Callable[[], Any]) -> list[EnergyMeter]:
    try:
        nvml = load()
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        handle = gpu_handle(nvml, device)
        try:
            return [_GpuMeter(nvml, handle)]
        except nvml.NVMLError:  # too old, or a slice
            return [_PowerMeter(nvml, handle, time.monotonic)]
    except (nvml.NVMLError, ValueError):  # no driver; or nothing says which GPU it is
        return []


class _Package:
    """The counter of a processor package, in microjoules from 0 up to where it starts again.

    It must be read once before that: at 100 W some counters start again after 40 minutes.
    """

    source: EnergySource = "rapl"

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._file.read_text())
        self._total = 0

    def joules(self) -> float:
        now = int(self._file.read_text())
        self._total += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._total / 1e6


def _packages(device: DeviceSpec, root: Path) -> list[EnergyMeter]:
    """The packages that a device's cores are on, in order; none if one of them can't be read."""
    try:
        wanted = {_package_of(core, root) for core in device.cores}
        # Of `package-0-die-1`, the package counts; zones of a package's parts have other names.
        found: list[EnergyMeter] = [
            _Package(name, folder)
            for name, folder in sorted(_zones(root))
            if not wanted or name.split("-")[1] in wanted
        ]
    except (OSError, ValueError):  # not for this user, or not of this form
        return []
    known = {meter.name.split("-")[1] for meter in found}
    return found if wanted <= known else []


def _package_of(core: int, root: Path) -> str:
    topology = root / f"sys/devices/system/cpu/cpu{core}/topology"
    return (topology / "physical_package_id").read_text().strip()


def _zones(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in (root / "sys/class/powercap").glob("intel-rapl:*"):
        name = (folder / "name").read_text().strip()
        if name.startswith("package-"):
            yield name, folder


class Power(NamedTuple):
    """What repeating something draws: `watts` in all, and the seconds that each run takes."""

    watts: float
    run_s: float


def measure_power(
    meters: Sequence[EnergyMeter],
    run: Callable[[], object],
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Power | None:
    """Repeat something for about so many seconds, and return the power that it draws meanwhile.

    Counters change in steps, so the time between two changes counts: from the first one that is
    seen to the last (as Burtscher et al., "Measuring GPU power with the K20 built-in sensor", GPGPU
    2014, advise for sensors of this kind). None if a counter does not change.
    """

    def total() -> float:
        return sum(meter.joules() for meter in meters)

    begun = polled = clock()
    runs, before = 0, total()
    first: tuple[float, float, int] | None = None
    while True:
        run()
        runs += 1
        now = clock()
        if now - polled < _POLL_S:
            continue
        polled, joules = now, total()
        if joules != before:
            before = joules
            if first is None:
                first = now, joules, runs
            elif now - begun >= seconds:
                took_s, done = now - first[0], runs - first[2]
                return Power((joules - first[1]) / took_s, took_s / done)
        if runs >= _LEAST_RUNS and now - begun >= _PATIENCE * seconds:
            return None
