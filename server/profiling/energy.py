"""The energy of batches: measured beside the idle power of the device, or estimated from watts.

Runs in the process that profiles; pure. What a profiler's child has measured, or the watts that the
configuration gives, flow in; joules per batch flow out.

A device draws its idle power whatever is placed on it, so the energy of a batch is what it takes
above that: (watts while batches run - watts while the worker waits) x seconds per batch.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from server.errors import ConfigError
from workers.profiler.energy import EnergySource
from workers.profiler.handle import PowerMeasured
from workers.runtime.spec import DeviceSpec

__all__ = ["RecordedEnergy", "batch_energy", "estimated_watts", "idle_watts"]


class RecordedEnergy(msgspec.Struct, frozen=True):
    """What was measured of a member on a kind of device; a part of its record in the cache.

    Attributes:
        idle_watts: of the device, with the member loaded and nothing running.
        joules: by batch size, above the idle power; without those that were lost in it.
    """

    source: EnergySource
    idle_watts: float
    joules: dict[int, float]


def batch_energy(idle: PowerMeasured, busy: Mapping[int, PowerMeasured]) -> RecordedEnergy:
    """Return the energy of batches from the power while they ran, by size, and while none did."""
    if idle.watts is None:
        return RecordedEnergy(idle.source, 0.0, {})
    joules = {
        batch: (one.watts - idle.watts) * one.run_s
        for batch, one in busy.items()
        if one.watts is not None and one.watts > idle.watts
    }
    return RecordedEnergy(idle.source, idle.watts, joules)


def estimated_watts(devices: Sequence[DeviceSpec]) -> float | None:
    """Return the watts above idle of a busy device of a kind, as configured; None if they are not.

    Raises:
        ConfigError: if devices of one kind are to draw different watts.
    """
    given = {device.busy_watts: device.name for device in devices if device.busy_watts is not None}
    if len(given) > 1:
        names = " and ".join(given.values())
        raise ConfigError(
            f"devices: {names} are of one kind ({devices[0].kind}), whose members are measured "
            "once: give them the same watts"
        )
    return next(iter(given), None)


def idle_watts(records: Iterable[tuple[str, RecordedEnergy | None]]) -> dict[str, float]:
    """Return the idle power by kind of device, from pairs of a kind and what was measured there."""
    measured: defaultdict[str, list[float]] = defaultdict(list)
    for kind, energy in records:
        if energy is not None and energy.idle_watts > 0:
            measured[kind].append(energy.idle_watts)
    return {kind: statistics.median(watts) for kind, watts in measured.items()}
