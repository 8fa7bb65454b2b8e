"""The simulation's late binding decides as the server's does."""

from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.dispatch import policy, state
from allocator.dispatch.flows import NORMAL, Flows
from allocator.dispatch.pending import PendingRows, merge
from allocator.simulation.binding import Binder
from allocator.simulation.jobs import Costs, DeviceState, InstanceState

SEGMENT = 1 << 40
#: Multiples of a power of two, so that sums are exact and ties are ties in both.
QUANTUM_S = 2.0**-14


class Table:
    """Seconds per batch, as the server's `Latency`, without its coarse steps."""

    def __init__(self, batch, quanta):
        self.batch = batch
        self._quanta = quanta

    def seconds(self, rows):
        return (self._quanta + min(rows, self.batch)) * QUANTUM_S

    def total(self, rows):
        full, rest = divmod(rows, self.batch)
        return full * self.seconds(self.batch) + (self.seconds(rest) if rest else 0.0)


class Both:
    """The server's dispatcher and the simulation's, in step."""

    def __init__(self, devices, kinds, cells, quanta):
        """`cells`: [device][member] batch; `quanta`: [kind][member]."""
        self.states = [state.DeviceState(f"d{i}", up=True) for i in range(devices)]
        members = len(quanta[0])
        self.members = [state.Member(f"m{i}", 0, i, PendingRows(SEGMENT)) for i in range(members)]
        self.devices = [DeviceState(f"d{i}", i, 0) for i in range(devices)]
        costs = [[Costs(Table(1 << 20, own).seconds, 64) for own in of_kind] for of_kind in quanta]
        self.instances = []
        for device, row in enumerate(cells):
            for member, batch in enumerate(row):
                if batch:
                    kind = kinds[device]
                    self.members[member].placements.append(
                        state.Placement(
                            self.states[device],
                            0,
                            self.members[member],
                            Table(batch, quanta[kind][member]),
                        )
                    )
                    self.instances.append(
                        InstanceState(self.devices[device], member, batch, costs[kind][member])
                    )
        self.binder = Binder(self.instances, members, self.devices)
        self.next_job, self.next_row = 1, 1
        self.flow = Flows().get(0, 0, NORMAL)

    def append(self, member, rows, now):
        start, self.next_row = self.next_row, self.next_row + rows
        self.members[member].pending.append(start, self.next_row, now, self.flow)
        self.binder.pending.append(member, start, self.next_row, now)

    def finish(self, device, now):
        state = self.states[device]
        if state.jobs:
            state.close(next(iter(state.jobs)), now)
            self.binder.close(self.devices[device], now)

    def lose(self, device, now):
        state = self.states[device]
        state.up = False
        self.binder.set_up(self.devices[device], up=False)
        lost = [state.close(job, now) for job in list(state.jobs)]
        mine = [self.binder.close(self.devices[device], now) for _ in lost]
        for job, own in reversed(list(zip(lost, mine, strict=True))):
            for flow, ranges in job.shares:
                for start, stop in ranges:
                    job.placement.member.pending.append(start, stop, job.since, flow)
            self.binder.pending.put_back(own)

    def bring_back(self, device):
        self.states[device].up = True
        self.binder.set_up(self.devices[device], up=True)

    def bind(self, now):
        theirs = policy.bind(self.members, self.next_job, now)
        self.next_job += len(theirs)
        ours = self.binder.bind(now)
        assert [
            (job.instance.device.name, job.instance.member, job.ranges, job.since) for job in ours
        ] == [
            (job.placement.device.name, job.placement.member.index,
             merge(job.ranges, SEGMENT), job.since)
            for job in theirs
        ]  # fmt: skip
        return len(ours)


@st.composite
def problems(draw):
    devices, members = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kinds = draw(st.lists(st.integers(0, 1), min_size=devices, max_size=devices))
    batches = st.sampled_from([0, 1, 4, 8])
    cells = [draw(st.lists(batches, min_size=members, max_size=members)) for _ in range(devices)]
    for member in range(members):
        if not any(row[member] for row in cells):
            cells[draw(st.integers(0, devices - 1))][member] = 4
    # From tiny jobs, of which a device takes many, to heavy ones.
    sizes = st.sampled_from([0, 0, 1, 3, 40, 200])
    quanta = [draw(st.lists(sizes, min_size=members, max_size=members)) for _ in range(2)]
    return devices, kinds, cells, quanta


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "finish", "finish", "lose", "back", "all"]),
        st.integers(0, 3),
        st.integers(1, 12),
        st.sampled_from([0, 0, 1, 5, 50]),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(problems(), STEPS)
def test_decides_as_the_server_does(problem, steps):
    both = Both(*problem)
    devices, members = problem[0], len(problem[3][0])
    now = 1.0
    for step, which, rows, quanta in steps:
        now += quanta * QUANTUM_S
        if step == "append":
            both.append(which % members, rows, now)
        elif step == "all":
            for member in range(members):
                both.append(member, rows, now)
        elif step == "finish":
            both.finish(which % devices, now)
        elif step == "lose" and both.states[which % devices].up:
            both.lose(which % devices, now)
        elif step == "back":
            both.bring_back(which % devices)
        both.bind(now)


def test_tiny_jobs_go_out_together():
    both = Both(1, [0], [[8, 8, 8]], [[0, 0, 0]])
    for member in range(3):
        both.append(member, 1, 1.0)
    assert both.bind(1.0) == 3


def test_an_idle_slow_device_declines_what_a_busy_fast_one_would_finish_sooner():
    both = Both(2, [0, 1], [[8], [8]], [[10], [400]])
    bound = []
    for _ in range(3):
        both.append(0, 8, 1.0)
        bound.append(both.bind(1.0))
    assert bound == [1, 1, 0]
