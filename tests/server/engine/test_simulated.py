"""The front-end's fleet and the simulation run the same jobs, at the same times."""

import heapq
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.dispatch.flows import NORMAL, Flows
from allocator.matrix import AllocationMatrix
from allocator.problem import Device
from allocator.profiles import Profile, Profiles
from allocator.simulation.arrivals import Trace
from allocator.simulation.scenario import Scenario
from allocator.simulation.simulation import Simulation
from server.engine.fleet import Fleet
from workers.runtime.messages import Finished, Hello, Ready

SEGMENT = 1 << 40
#: Multiples of a power of two, so that sums are exact and ties are ties in both.
QUANTUM_S = 2.0**-14


@st.composite
def problems(draw):
    """Batches by device and member, and seconds per batch by kind of device and member."""
    devices, members = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kinds = draw(st.lists(st.integers(0, 1), min_size=devices, max_size=devices))
    batches = st.sampled_from([0, 1, 4, 8])
    cells = [draw(st.lists(batches, min_size=members, max_size=members)) for _ in range(devices)]
    for member in range(members):
        if not any(row[member] for row in cells):
            cells[draw(st.integers(0, devices - 1))][member] = 4
    # From tiny jobs, of which a device holds many, to heavy ones.
    quanta = st.sampled_from([1, 1, 2, 4, 40, 200])
    seconds = [[draw(quanta) * QUANTUM_S for _ in range(members)] for _ in range(2)]
    return kinds, cells, seconds


@st.composite
def traces(draw):
    now, requests = 0.0, []
    for gap in draw(st.lists(st.sampled_from([0, 0, 1, 5, 50]), min_size=1, max_size=40)):
        now += gap * QUANTUM_S
        requests.append((now, draw(st.integers(1, 12))))
    return tuple(requests)


class RecordingSimulation(Simulation):
    """Notes each job as it begins."""

    def __init__(self, scenario):
        super().__init__(scenario)
        self.jobs = []

    def _start(self, worker):
        job = worker.queue[0]
        self.jobs.append(
            (self._timeline.now, worker.state.name, job.placement.member.name, job.ranges)
        )
        super()._start(worker)


def simulated(problem, requests):
    kinds, cells, seconds = problem
    members = tuple(f"m{i}" for i in range(len(cells[0])))
    names = tuple(f"cuda:{i}" for i in range(len(cells)))
    simulation = RecordingSimulation(
        Scenario(
            matrix=AllocationMatrix(members, names, tuple(map(tuple, cells))),
            devices=tuple(
                Device(name, f"k{kind}", 1 << 30) for name, kind in zip(names, kinds, strict=True)
            ),
            profiles=Profiles(
                Profile(member, f"k{kind}", batch, seconds[kind][index], 0)
                for kind in (0, 1)
                for index, member in enumerate(members)
                for batch in (1, 8)
            ),
            arrivals=Trace(requests),
            warm_up=0.0,
        )
    )
    simulation.run()
    return simulation.jobs


def served(problem, requests):
    """What the fleet gives out, with workers that take as long as expected."""
    kinds, cells, seconds = problem
    members = tuple(f"m{i}" for i in range(len(cells[0])))
    spec = SimpleNamespace(segment_rows=SEGMENT, members=members)
    held = {
        f"cuda:{device}": [(member, batch) for member, batch in enumerate(row) if batch]
        for device, row in enumerate(cells)
    }
    fleet = Fleet(
        arenas={0: SimpleNamespace(spec=spec)},
        instances={
            device: tuple(SimpleNamespace(arena=0, member=m, batch=b, id=m) for m, b in own)
            for device, own in held.items()
        },
    )
    took = dict(zip(held, (seconds[kind] for kind in kinds), strict=True))
    for device, own in held.items():
        flat = {member: (took[device][member], took[device][member]) for member, _ in own}
        fleet.hello(device, Hello(1, 0, flat))
    flow, everybody = Flows().get("", NORMAL), (1 << len(members)) - 1
    events = [(at, number, None, rows) for number, (at, rows) in enumerate(requests)]
    queues, jobs, head = {device: [] for device in held}, [], 0

    def start(device, now):
        job = queues[device][0]
        jobs.append((now, device, job.placement.member.name, job.ranges))
        elapsed_s = took[device][job.placement.member.index]
        end = now + elapsed_s
        heapq.heappush(
            events, (end, len(requests) + job.id, device, Finished(job.id, elapsed_s, True))
        )

    while events:
        now, first = events[0][0], head
        while events and events[0][0] == now:
            _, _, device, what = heapq.heappop(events)
            if device is None:
                head += what
                continue
            queues[device].pop(0)
            if queues[device]:
                start(device, now)
            fleet.ready(device, Ready(1, (what,)), now)
        if head > first:
            fleet.enqueue(0, everybody, [(first, head)], now, flow)
        for job in fleet.dispatch(now):
            device = job.placement.device.name
            queues[device].append(job)
            if len(queues[device]) == 1:
                start(device, now)
    return jobs


@settings(max_examples=200, deadline=None)
@given(problems(), traces())
def test_the_fleet_and_the_simulation_run_the_same_jobs(problem, requests):
    ours, theirs = simulated(problem, requests), served(problem, requests)
    assert sorted(ours) == sorted(theirs)
    rows = sum(rows for _, rows in requests)
    assert sum(b - a for *_, ranges in ours for a, b in ranges) == rows * len(problem[1][0])
