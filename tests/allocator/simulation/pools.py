from allocator.matrix import AllocationMatrix
from allocator.problem import Device
from allocator.profiles import Profile, Profiles
from allocator.simulation import Scenario, simulate


class Pool:
    """An allocation with all it needs, from a few numbers.

    `latency_s`: member -> {device kind: {batch: seconds}}; `devices`: name -> kind;
    `cells`: device -> {member: batch}.
    """

    def __init__(self, latency_s, devices, cells):
        self.profiles = Profiles(
            Profile(member, kind, batch, seconds, 0)
            for member, kinds in latency_s.items()
            for kind, batches in kinds.items()
            for batch, seconds in batches.items()
        )
        self.devices = [
            Device(name, kind, 1 << 30, () if name.startswith("cuda") else (i,))
            for i, (name, kind) in enumerate(devices.items())
        ]
        self.matrix = AllocationMatrix(
            tuple(latency_s),
            tuple(devices),
            tuple(tuple(cells[device].get(m, 0) for m in latency_s) for device in devices),
        )

    def simulate(self, arrivals, **options):
        return simulate(
            Scenario(
                matrix=self.matrix,
                devices=self.devices,
                profiles=self.profiles,
                arrivals=arrivals,
                **options,
            )
        )
