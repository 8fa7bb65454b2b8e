"""The devices of a simulation, what their batches cost, and the workers that run their jobs.

Used within one simulation run: the dispatch policy gives out jobs by what it believes of devices
(`allocator.dispatch.state`), a worker here is what really happens to them.

Simplified: an estimate is the profile's latency for that very number of rows times the pace lately
learned for that member on that kind of device, where the server learns a latency per instance and
power of two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from allocator.dispatch.pending import PendingRows
from allocator.dispatch.state import DeviceState, LatencyEstimate, Member, OpenJob, Placement
from allocator.simulation.scenario import Scenario

__all__ = ["SimulatedInstance", "SimulatedWorker", "make_fleet"]

_SMOOTHING = 0.2
#: A simulation's arena is one segment: rows are never numbered anew.
_SEGMENT_ROWS = 1 << 62


class BatchCosts:
    """What a member's batches take on one kind of device; shared by its instances there.

    `known` is seconds per batch by rows, 0 where it has not been looked up; `pace` is what batches
    have taken lately, as a multiple of that.
    """

    __slots__ = ("_latency_s", "known", "pace")

    def __init__(self, latency_s: Callable[[int], float], largest: int) -> None:
        self._latency_s = latency_s
        self.known = [0.0] * (largest + 1)
        self.pace = 1.0

    def seconds(self, rows: int) -> float:
        """How long a batch of so many rows takes, undisturbed."""
        seconds = self.known[rows]
        if not seconds:
            seconds = self.known[rows] = self._latency_s(rows)
        return seconds


class _ProfiledLatency(LatencyEstimate):
    """The estimate of an instance whose profile is known."""

    def __init__(self, batch: int, costs: BatchCosts) -> None:
        super().__init__(batch)
        self._costs = costs

    def learn(self, rows: int, elapsed_s: float) -> None:
        """Learn how far a batch was slower than its profile."""
        costs = self._costs
        costs.pace += _SMOOTHING * (elapsed_s / costs.seconds(rows) - costs.pace)

    def seconds(self, rows: int) -> float:
        """How long a batch of `rows` should take, or a full one if that is less."""
        costs = self._costs
        rows = rows if rows < self.batch else self.batch
        return (costs.known[rows] or costs.seconds(rows)) * costs.pace

    def total(self, rows: int) -> float:
        """How long `rows` should take, batch after batch."""
        costs = self._costs
        if rows <= self.batch:
            return (costs.known[rows] or costs.seconds(rows)) * costs.pace
        full, rest = divmod(rows, self.batch)
        seconds = full * costs.seconds(self.batch)
        return (seconds + costs.seconds(rest) if rest else seconds) * costs.pace


@dataclass(slots=True, eq=False)
class SimulatedInstance:
    """A member on a device: `placement` is what the policy knows of it.

    `costs` are what its batches really take; it has run `jobs` with `rows` rows in all.
    """

    placement: Placement
    costs: BatchCosts
    jobs: int = 0
    rows: int = 0


class SimulatedWorker:
    """A device, and the worker that runs its jobs.

    `state` is what the dispatch policy knows. The first job in `queue` is the one that runs. The
    worker keeps `cores` of the host's busy, 0 for a GPU. `running` is its handle on the timeline,
    0 if idle. `busy_s` is without the running job. `unreported` are finished jobs; some were
    reported last at `flushed`.
    """

    def __init__(self, name: str, cores: int) -> None:
        self.state = DeviceState(name, up=True)
        self.cores = cores
        self.instances: list[SimulatedInstance] = []
        self.queue: deque[OpenJob] = deque()
        self.running = 0
        self.started = self.busy_s = self.flushed = 0.0
        self.unreported: list[OpenJob] = []


def make_fleet(scenario: Scenario) -> tuple[list[Member], dict[str, SimulatedWorker]]:
    """Return the members, and by device the workers with their instances, all idle."""
    matrix = scenario.matrix
    known = {device.name: device for device in scenario.devices}
    members = [
        Member(name, 0, index, PendingRows(_SEGMENT_ROWS))
        for index, name in enumerate(matrix.members)
    ]
    workers = {
        name: SimulatedWorker(name, 0 if known[name].is_cuda else max(len(known[name].cores), 1))
        for name in matrix.devices
    }
    costs: dict[tuple[str, str], BatchCosts] = {}
    latencies: dict[tuple[str, str, int], _ProfiledLatency] = {}  # one for devices of a kind
    for worker, cells in zip(workers.values(), matrix.cells, strict=True):
        kind = known[worker.state.name].kind
        for member, batch in zip(members, cells, strict=True):
            if batch:
                key = member.name, kind
                if key not in costs:
                    largest = max(row[member.index] for row in matrix.cells)
                    costs[key] = _costs(scenario, *key, largest)
                latency = latencies.setdefault((*key, batch), _ProfiledLatency(batch, costs[key]))
                placement = Placement(worker.state, len(worker.instances), member, latency)
                member.placements.append(placement)
                worker.instances.append(SimulatedInstance(placement, costs[key]))
    return members, workers


def _costs(scenario: Scenario, member: str, kind: str, largest: int) -> BatchCosts:
    latency_s = scenario.profiles.latency_s
    factor = scenario.colocation.get((member, kind), 1.0)
    overhead_s = scenario.host.worker_s_per_job
    return BatchCosts(lambda rows: latency_s(member, kind, rows) * factor + overhead_s, largest)
