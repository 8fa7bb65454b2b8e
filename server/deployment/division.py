"""Divides CPU devices as `placement.threads` allows, or as an allocation says.

Runs in the process that plans an allocation; pure. The configuration and the devices of the host
flow in, and flow out with parts in place of those that are divided. Parts are named as in
`allocator.division`; they share the memory of their device, and never its cores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from allocator.division import part_cores, part_kind, part_name, thread_counts, whole_name
from server.config import Config
from server.errors import ConfigError
from workers.runtime.spec import DeviceSpec

__all__ = ["divided_devices", "division_problems", "part_counts", "profiled_devices"]


def part_counts(config: Config, devices: Sequence[DeviceSpec]) -> dict[str, tuple[int, ...]]:
    """Return, by the name of each device that may be divided, how many cores a part may have.

    Raises:
        ConfigError: if a device has fewer cores than any part may have.
    """
    threads = config.placement.threads
    if threads == "device":
        return {}
    wanted = () if threads == "auto" else threads
    cpus = {device.name: len(device.cores) for device in devices if device.cores}
    counts = {name: thread_counts(wanted, cores) for name, cores in cpus.items()}
    if problems := [
        f"placement.threads: {name} has {cores} cores, fewer than any of {[*wanted]}; add {cores}"
        for name, cores in cpus.items()
        if not counts[name]
    ]:
        raise ConfigError(problems)
    return counts


def profiled_devices(
    config: Config, devices: Sequence[DeviceSpec], named: Collection[str] = ()
) -> list[DeviceSpec]:
    """Return the devices, and all parts that they may be divided into, and those that are named.

    Parts of one size that a device may be divided into share no core: all can be measured at once.
    """
    found = {device.name: device for device in devices}
    for name, counts in part_counts(config, devices).items():
        device = found[name]
        for count in counts:
            for start in range(0, len(device.cores) - count + 1, count):
                part = _part(device, device.cores[start : start + count])
                found[part.name] = part
        if len(device.cores) not in counts:
            del found[name]
    kinds = {device.kind for device in found.values()}
    for part in divided_devices(devices, named):
        if part.name in named and part.kind not in kinds:
            found[part.name] = part
    return list(found.values())


def divided_devices(devices: Sequence[DeviceSpec], named: Iterable[str]) -> tuple[DeviceSpec, ...]:
    """Return the devices, with the named parts in place of those that they are parts of.

    The names have no `division_problems`, or else those in question are left out.
    """
    known = {device.name: device for device in devices}
    parts: defaultdict[str, list[DeviceSpec]] = defaultdict(list)
    for name in named:
        device = known.get(whole_name(name))
        if device is not None and name not in known and not _part_problem(device, name):
            parts[device.name].append(_part(device, part_cores(name)))
    return tuple(part for device in devices for part in parts.get(device.name, [device]))


def division_problems(devices: Sequence[DeviceSpec], named: Iterable[str]) -> Iterator[str]:
    """Yield why devices can't be divided into those that are named, a line each."""
    known = {device.name: device for device in devices}
    owners: dict[tuple[str, int], str] = {}
    for name in named:
        device = known.get(name) or known.get(whole_name(name))
        if device is None:
            yield f"device {name!r} is not there"
        elif name != device.name and (problem := _part_problem(device, name)):
            yield f"device {name!r}: {problem}"
        else:
            cores = device.cores if name == device.name else part_cores(name)
            others = [owners.setdefault((device.name, core), name) for core in cores]
            if other := next((other for other in others if other != name), None):
                yield f"devices {other!r} and {name!r} share a core, leave one of them out"


def _part_problem(device: DeviceSpec, name: str) -> str:
    """Why a device has no such part; empty if it has."""
    cores = part_cores(name)
    if not device.cores:
        return f"{device.name} is a GPU, which has no parts of this kind"
    if absent := sorted(set(cores) - set(device.cores)):
        there = ", ".join(map(str, device.cores))
        return f"{device.name} has no core {absent[0]}, its cores are {there}"
    right = part_name(device.name, device.cores, cores) if cores else device.name
    return "" if name == right else f"its name would be {right!r}"


def _part(device: DeviceSpec, cores: tuple[int, ...]) -> DeviceSpec:
    """The part of a device that has these cores: itself if that is all."""
    name = part_name(device.name, device.cores, cores)
    kind, pool = part_kind(len(cores)), device.pool or device.name
    if name == device.name:
        return device
    return msgspec.structs.replace(device, name=name, kind=kind, cores=cores, pool=pool)
