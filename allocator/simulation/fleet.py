"""The devices and instances of a scenario, idle, as a simulation run starts with them."""

from __future__ import annotations

from allocator.devices import Device
from allocator.simulation.jobs import Costs, DeviceState, InstanceState
from allocator.simulation.scenario import Scenario

__all__ = ["make_fleet"]


def make_fleet(scenario: Scenario) -> tuple[list[DeviceState], list[InstanceState]]:
    """Return the devices, and all instances by device in their order."""
    matrix = scenario.matrix
    known = {device.name: device for device in scenario.devices}
    devices = [
        DeviceState(name, index, _cores(known[name])) for index, name in enumerate(matrix.devices)
    ]
    costs: dict[tuple[str, str], Costs] = {}
    instances: list[InstanceState] = []
    for device, cells in zip(devices, matrix.cells, strict=True):
        kind = known[device.name].kind
        for member, (name, batch) in enumerate(zip(matrix.members, cells, strict=True)):
            if batch:
                if (name, kind) not in costs:
                    largest = max(row[member] for row in matrix.cells)
                    costs[name, kind] = _costs(scenario, name, kind, largest)
                instances.append(InstanceState(device, member, batch, costs[name, kind]))
    return devices, instances


def _costs(scenario: Scenario, member: str, kind: str, largest: int) -> Costs:
    latency_s = scenario.profiles.latency_s
    factor = scenario.colocation.get((member, kind), 1.0)
    overhead_s = scenario.host.worker_s_per_job
    return Costs(lambda rows: latency_s(member, kind, rows) * factor + overhead_s, largest)


def _cores(device: Device) -> int:
    return 0 if device.is_cuda else max(len(device.cores), 1)
