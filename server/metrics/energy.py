"""The energy of each device, divided among those that share a meter, and estimated without one.

Runs in the front-end: the meters are read in the thread of a sampler, at most once a second and
only for a scrape. What they count and the seconds that the devices were busy flow in, joules per
device flow out.

A processor's counter, and that of a GPU in parts, is of all devices on it: what it has counted
since the last scrape goes to these in proportion to the seconds that they were busy meanwhile,
evenly if none was. So the devices' energies add up to what was counted, idle power and other
programs included. Without a meter, a busy device is taken to draw the configured watts.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

from workers.profiler.energy import EnergyMeter, EnergySource
from workers.runtime.spec import DeviceSpec

__all__ = ["DeviceEnergy", "EnergyReader"]

_log = logging.getLogger(__name__)


class EnergyReader:
    """Reads the meters of devices; `find` returns those of a device."""

    def __init__(self, find: Callable[[DeviceSpec], list[EnergyMeter]]) -> None:
        self._find = find
        self._meters: dict[str, EnergyMeter] = {}
        self.of_device: dict[DeviceSpec, tuple[str, ...]] = {}

    def source(self, device: DeviceSpec) -> EnergySource:
        """Where a device's energy is from."""
        names = self.of_device[device]
        return self._meters[names[0]].source if names else "estimated"

    def read(self, devices: Collection[DeviceSpec]) -> dict[str, float]:
        """Return what each meter has counted, in joules; one that fails is left out."""
        self.of_device = {
            device: self.of_device[device] if device in self.of_device else self._names(device)
            for device in tuple(devices)
        }
        counted = {}
        for name, meter in self._meters.items():
            try:
                counted[name] = meter.joules()
            except Exception as error:  # of any kind, a driver's among them
                _log.debug("the energy of %s can't be read: %s", name, error)
        return counted

    def _names(self, device: DeviceSpec) -> tuple[str, ...]:
        meters = self._find(device)
        for meter in meters:
            self._meters.setdefault(meter.name, meter)
        return tuple(meter.name for meter in meters)


class DeviceEnergy:
    """Adds up the joules of each device, by name, from scrape to scrape."""

    def __init__(self) -> None:
        self.joules: defaultdict[str, float] = defaultdict(float)
        self._counted: dict[str, float] = {}
        self._busy_s: dict[str, float] = {}

    def add(
        self,
        counted: Mapping[str, float],
        of_device: Mapping[DeviceSpec, tuple[str, ...]],
        busy_s: Mapping[str, float],
    ) -> None:
        """Add what was used since the last call.

        `counted` are joules by meter, `of_device` the meters that cover each device, and `busy_s`
        the seconds that the devices were busy, all of them since some moment.
        """
        busy = {
            device: max(busy_s.get(device.name, 0.0) - self._busy_s.get(device.name, 0.0), 0.0)
            for device in of_device
        }
        for name, joules in counted.items():
            sharing = [device for device, names in of_device.items() if name in names]
            used = joules - self._counted.get(name, joules)
            total_s = sum(busy[device] for device in sharing)
            for device in sharing:
                share = busy[device] / total_s if total_s else 1 / len(sharing)
                self.joules[device.name] += used * share
        for device, names in of_device.items():
            if not names and device.busy_watts is not None:
                self.joules[device.name] += device.busy_watts * busy[device]
        self._counted.update(counted)
        self._busy_s = dict(busy_s)
