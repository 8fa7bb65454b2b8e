import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.dispatch.flows import HIGH, NORMAL, Flows
from allocator.dispatch.pending import PendingRows
from allocator.dispatch.policy import bind
from allocator.dispatch.state import DeviceState, LatencyEstimate, Member, Placement, requeue

SEGMENT = 64


class Bench:
    """Members and devices, as a front-end has them: what is bound stays open until `finish`."""

    def __init__(self, devices, members, batches=()):
        """`members`: name -> {device: seconds per batch}; flat latencies.

        `batches`: device -> rows per batch, 8 for those that are not there.
        """
        self.devices = {name: DeviceState(name, up=True) for name in devices}
        self.members = []
        for index, (name, seconds) in enumerate(members.items()):
            member = Member(name, 0, index, PendingRows(SEGMENT))
            for position, (device, latency) in enumerate(seconds.items()):
                estimate = LatencyEstimate(dict(batches).get(device, 8))
                estimate.warm_up(latency, latency)
                member.placements.append(
                    Placement(self.devices[device], position, member, estimate)
                )
            self.members.append(member)
        self.jobs = 0
        self.flows = Flows()

    def append(self, start, stop, now, only=None, flow=(0, NORMAL)):
        for member in self.members:
            if only is None or member.name in only:
                member.pending.append(start, stop, now, self.flows.get(*flow))

    def bind(self, now=0.0):
        """What is bound, as (member, device, ranges)."""
        bound = bind(self.members, self.jobs + 1, now)
        assert [item.id for item in bound] == list(range(self.jobs + 1, self.jobs + 1 + len(bound)))
        self.jobs += len(bound)
        for item in bound:
            assert self.devices[item.placement.device.name].jobs[item.id] is item
        return [
            (item.placement.member.name, item.placement.device.name, item.ranges) for item in bound
        ]

    def finish(self, device, now):
        """The device has finished its oldest job."""
        state = self.devices[device]
        return state.close(next(iter(state.jobs)), now)


def names(bound):
    return [member for member, _, _ in bound]


def test_the_oldest_goes_first():
    bench = Bench(["cpu:0"], {"a": {"cpu:0": 0.01}, "b": {"cpu:0": 0.01}, "c": {"cpu:0": 0.01}})
    bench.append(2, 3, now=3.0, only={"a"})
    bench.append(1, 2, now=1.0, only={"b"})
    bench.append(3, 4, now=2.0, only={"c"})
    assert names(bench.bind(now=4.0)) == ["b", "c"]
    bench.finish("cpu:0", now=4.01)
    assert names(bench.bind(now=4.01)) == ["a"]


def test_among_equals_the_longest_job_goes_first():
    bench = Bench(["cpu:0"], {"a": {"cpu:0": 0.01}, "b": {"cpu:0": 0.03}, "c": {"cpu:0": 0.02}})
    bench.append(0, 1, now=0.0)
    assert names(bench.bind()) == ["b", "c"]


def test_a_lone_request_spreads_over_the_idle_devices():
    both = {"cpu:0": 0.010, "cpu:1": 0.010}
    longer = {"cpu:0": 0.015, "cpu:1": 0.015}
    bench = Bench(["cpu:0", "cpu:1"], {"a": both, "b": both, "c": longer})
    bench.append(0, 1, now=0.0)
    bound = bench.bind()
    where = {member: device for member, device, _ in bound}
    assert names(bound)[0] == "c"
    assert where["a"] == where["b"] != where["c"]


def devices(bound):
    return [device for _, device, _ in bound]


@pytest.mark.parametrize("rows", [1, 8])
def test_rows_wait_for_a_busy_fast_device_where_it_finishes_sooner(rows):
    bench = Bench(["fast", "slow"], {"a": {"fast": 0.01, "slow": 0.10}})
    bench.append(0, 16, now=0.0)
    assert devices(bench.bind()) == ["fast", "fast"]
    bench.append(16, 16 + rows, now=0.0)
    assert bench.bind() == [], "slow declines"
    bench.finish("fast", now=0.01)
    assert bench.bind(now=0.01) == [("a", "fast", [(16, 16 + rows)])]


def test_an_idle_slow_device_helps_where_it_finishes_sooner():
    bench = Bench(["fast", "slow"], {"a": {"fast": 0.010, "slow": 0.015}})
    bench.append(0, 32, now=0.0)
    assert devices(bench.bind()) == ["fast", "fast", "slow"]


def test_a_much_slower_device_helps_as_soon_as_many_rows_wait():
    bench = Bench(["fast", "slow"], {"a": {"fast": 0.01, "slow": 0.10}})
    bench.append(0, 64, now=0.0)
    assert devices(bench.bind()) == ["fast", "fast"], "which is through after 80 ms"
    bench.append(64, 128, now=0.0)
    assert devices(bench.bind()) == ["slow"], "160 ms"
    bench.finish("fast", now=0.01)
    assert devices(bench.bind(now=0.01)) == ["fast"], "slow has capacity, but would take 200 ms"


def test_all_that_waits_for_a_fast_device_counts():
    both = {"fast": 0.01, "slow": 0.05}
    alone = Bench(["fast", "slow"], {"a": both})
    alone.append(0, 16, now=0.0)
    assert devices(alone.bind()) == ["fast", "fast"]
    alone.append(16, 24, now=0.0)
    assert alone.bind() == [], "30 ms"
    shared = Bench(["fast", "slow"], {name: both for name in "abcd"})
    shared.append(0, 16, now=0.0)
    assert devices(shared.bind()) == ["fast", "fast", "slow"], "80 ms, though 20 ms for each"


def test_a_device_helps_where_it_is_the_least_slow():
    bench = Bench(
        ["fast", "slow"],
        {"a": {"fast": 0.01, "slow": 0.09}, "b": {"fast": 0.01, "slow": 0.02}},
    )
    bench.append(0, 64, now=0.0)
    bench.append(64, 128, now=1.0, only={"b"})
    assert [one[:2] for one in bench.bind(now=1.0)] == [
        ("a", "fast"), ("b", "fast"), ("b", "slow"), ("b", "slow")
    ]  # fmt: skip


def test_members_for_which_a_device_is_the_best_come_before_those_it_helps():
    bench = Bench(
        ["cpu:0", "cpu:1"],
        {"a": {"cpu:0": 0.010, "cpu:1": 0.020}, "b": {"cpu:0": 0.030, "cpu:1": 0.010}},
    )
    bench.append(0, 64, now=0.0, only={"a"})
    bench.append(0, 64, now=1.0, only={"b"})
    assert [one[:2] for one in bench.bind(now=1.0)] == [
        ("a", "cpu:0"), ("a", "cpu:0"), ("b", "cpu:1"), ("b", "cpu:1")
    ]  # fmt: skip


def test_many_rows_go_where_there_are_more_per_second_not_where_a_small_batch_ends_first():
    seconds, batches = {"small": 0.010, "large": 0.020}, {"small": 8, "large": 32}
    few = Bench(["small", "large"], {"a": seconds}, batches)
    few.append(0, 8, now=0.0)
    assert few.bind() == [("a", "small", [(0, 8)])]
    many = Bench(["small", "large"], {"a": seconds}, batches)
    many.append(0, 32, now=0.0)
    assert many.bind() == [("a", "large", [(0, 32)])]


def test_work_turns_away_from_a_device_that_hangs():
    bench = Bench(["cpu:0", "cpu:1"], {"a": {"cpu:0": 0.010, "cpu:1": 0.011}})
    bench.append(0, 8, now=0.0)
    assert bench.bind(now=0.0) == [("a", "cpu:0", [(0, 8)])]
    bench.append(8, 16, now=0.02)  # cpu:0 is twice as late as it should be
    assert bench.bind(now=0.02) == [("a", "cpu:1", [(8, 16)])]
    bench.finish("cpu:1", now=0.031)
    for second in range(1, 4):
        bench.append(8 + 8 * second, 16 + 8 * second, now=float(second))
        assert [device for _, device, _ in bench.bind(now=float(second))] == ["cpu:1"]
        bench.finish("cpu:1", now=second + 0.01)


def test_a_device_has_capacity_for_one_more_than_it_runs():
    bench = Bench(["cpu:0"], {"a": {"cpu:0": 0.01}})
    bench.append(0, 40, now=0.0)
    assert len(bench.bind()) == 2
    assert bench.bind() == []
    assert bench.finish("cpu:0", now=0.01).ranges == [(0, 8)]
    assert bench.bind(now=0.01) == [("a", "cpu:0", [(16, 24)])]


def test_tiny_members_go_out_together_but_each_only_once():
    tiny = {f"m{i}": {"cpu:0": 0.00005} for i in range(5)}
    bench = Bench(["cpu:0"], tiny)
    bench.append(0, 1, now=0.0)
    assert sorted(names(bench.bind())) == sorted(tiny)
    bench.append(1, 2, now=0.0)
    assert bench.bind() == [], "there is something of each member already"


def test_nothing_goes_to_a_device_that_is_down():
    bench = Bench(["cpu:0", "cpu:1"], {"a": {"cpu:0": 0.01, "cpu:1": 0.02}, "b": {"cpu:0": 0.01}})
    bench.devices["cpu:0"].up = False
    bench.append(0, 1, now=0.0)
    assert bench.bind() == [("a", "cpu:1", [(0, 1)])]
    bench.devices["cpu:0"].up = True
    assert bench.bind() == [("b", "cpu:0", [(0, 1)])]


def test_a_closed_job_that_is_not_open_is_no_error():
    state = DeviceState("cpu:0", up=True)
    assert state.close(17, now=1.0) is None
    assert state.backlog_s(now=2.0) == 0.0


def test_latencies_are_interpolated_and_learned():
    latency = LatencyEstimate(8)
    latency.warm_up(0.001, 0.008)
    assert latency.seconds(1) == pytest.approx(0.001)
    assert latency.seconds(8) == pytest.approx(0.008)
    assert 0.001 < latency.seconds(2) < latency.seconds(4) < latency.seconds(8)
    assert latency.seconds(3) == latency.seconds(4)
    for rows in range(1, 9):
        assert latency.total(rows) == latency.seconds(rows)
    assert latency.total(19) == pytest.approx(2 * 0.008 + latency.seconds(3))
    assert latency.total(24) == pytest.approx(3 * 0.008)
    before = latency.seconds(4)
    for _ in range(100):
        latency.learn(8, 0.020)
    assert latency.seconds(8) == pytest.approx(0.020)
    assert latency.seconds(4) == before


seconds = st.sampled_from([0.00005, 0.001, 0.003, 0.01, 0.5])


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["d0", "d1", "d2"]), seconds, min_size=1),
        min_size=1,
        max_size=4,
    ),
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 20)),
            st.tuples(st.just("finish"), st.sampled_from(["d0", "d1", "d2"])),
            st.tuples(st.just("flip"), st.sampled_from(["d0", "d1", "d2"])),
        ),
        max_size=40,
    ),
)
def test_every_row_is_predicted_once_by_every_member(latencies, steps):
    members = {f"m{i}": dict(where) for i, where in enumerate(latencies)}
    bench = Bench(["d0", "d1", "d2"], members)
    head, now = 0, 0.0
    predicted = {name: [] for name in members}

    def bind_all():
        for member, device, ranges in bench.bind(now):
            assert bench.devices[device].up
            assert device in members[member]
            rows = [row for start, stop in ranges for row in range(start, stop)]
            assert 0 < len(rows) <= 8
            predicted[member] += rows

    for operation, value in steps:
        now += 0.001
        match operation:
            case "append":
                stop = min(head + value, head - head % SEGMENT + SEGMENT)
                bench.append(head, stop, now)
                head = stop
            case "finish" if bench.devices[value].jobs:
                bench.finish(value, now)
            case "flip" if not bench.devices[value].jobs:
                bench.devices[value].up = not bench.devices[value].up
        bind_all()
    for device in bench.devices.values():
        device.up = True
    for _ in range(1000):
        now += 1.0
        for name, device in bench.devices.items():
            while device.jobs:
                bench.finish(name, now)
        bind_all()
        if not any(member.pending.rows for member in bench.members):
            break
    for rows in predicted.values():
        assert rows == list(range(head)), "each once, in the order of arrival"


def some_cells(members, devices=("d0", "d1", "d2", "d3")):
    """By member, the devices that hold it with how long a batch takes there."""
    return st.lists(
        st.dictionaries(st.sampled_from(devices), seconds, min_size=1), min_size=1, max_size=members
    )


@given(
    some_cells(4),
    st.dictionaries(st.sampled_from(["d0", "d1", "d2", "d3"]), st.sampled_from([1, 4, 8])),
    st.lists(
        st.tuples(
            st.sampled_from(["append", "append", "finish", "finish", "lose", "back", "all"]),
            st.integers(0, 3),
            st.integers(1, 12),
            st.sampled_from([0.0, 0.0, 0.00006, 0.0003, 0.003]),
        ),
        max_size=60,
    ),
)
def test_rows_of_lost_devices_are_bound_again_before_all_others(latencies, batches, steps):
    members = {f"m{i}": dict(where) for i, where in enumerate(latencies)}
    bench = Bench(["d0", "d1", "d2", "d3"], members, batches)
    head, now = 0, 1.0
    for step, which, rows, gap in steps:
        now += gap
        device = bench.devices[f"d{which}"]
        if step in ("append", "all"):
            only = None if step == "all" else {f"m{which % len(members)}"}
            bench.append(head, head + rows, now, only)
            head += rows
        elif step == "finish" and device.jobs:
            bench.finish(device.name, now)
        elif step == "lose":
            device.up = False
            lost = [device.close(job, now) for job in list(device.jobs)]
            pending = {member.name: member.pending.rows for member in bench.members}
            for job in reversed(lost):
                requeue(job)
                pending[job.placement.member.name] += job.rows
                first = job.placement.member.pending
                assert first.since <= job.since
            assert pending == {member.name: member.pending.rows for member in bench.members}
        elif step == "back":
            device.up = True
        for member, name, ranges in bench.bind(now):
            assert bench.devices[name].up
            assert name in members[member]
            assert 0 < sum(stop - start for start, stop in ranges) <= batches.get(name, 8)
        for device in bench.devices.values():
            held = [job.placement for job in device.jobs.values()]
            assert len(held) <= 2 or len(set(held[2:])) == len(held[2:])
        idle = [d for d in bench.devices.values() if d.up and not d.jobs]
        for member in bench.members:
            if member.pending.rows and all(p.device in idle for p in member.placements):
                pytest.fail("its best device is idle, and its rows wait")


def test_a_lost_job_goes_first_again():
    bench = Bench(["cpu:0", "cpu:1"], {"a": {"cpu:0": 0.01, "cpu:1": 0.02}})
    bench.append(0, 24, now=0.0)
    assert bench.bind() == [("a", "cpu:0", [(0, 8)]), ("a", "cpu:0", [(8, 16)]),
                            ("a", "cpu:1", [(16, 24)])]  # fmt: skip
    bench.append(24, 32, now=0.5)
    state = bench.devices["cpu:0"]
    state.up = False
    for job in reversed([state.close(job, 1.0) for job in list(state.jobs)]):
        requeue(job)
    assert bench.members[0].pending.since == 0.0
    assert bench.bind(now=1.0) == [("a", "cpu:1", [(0, 8)])]


def test_three_idle_rounds_on_a_fast_and_a_much_slower_device():
    bench = Bench(["fast", "slow"], {"a": {"fast": 0.001, "slow": 0.025}})
    bound = []
    for start in (0, 8, 16):
        bench.append(start, start + 8, now=1.0)
        bound.append(len(bench.bind(now=1.0)))
    assert bound == [1, 1, 0]


# -- latencies ---------------------------------------------------------------------------------


def test_a_batch_that_was_held_up_says_little_but_slowness_that_lasts_is_learned():
    latency = LatencyEstimate(8)
    latency.warm_up(0.01, 0.02)
    latency.learn(8, 100.0)
    assert latency.seconds(8) == pytest.approx(0.02 + 0.2 * 0.04)
    for _ in range(60):
        latency.learn(8, 1.0)
    assert latency.seconds(8) == pytest.approx(1.0, rel=0.01)
    assert latency.seconds(1) == 0.01
    for _ in range(60):
        latency.learn(8, 0.0)
    assert latency.seconds(8) < 1e-5


# -- flows -------------------------------------------------------------------------------------


def test_what_is_urgent_goes_first_however_long_others_have_waited():
    bench = Bench(["cpu:0"], {"a": {"cpu:0": 0.01}, "b": {"cpu:0": 0.01}, "c": {"cpu:0": 0.01}})
    for member, since in [("a", 0.0), ("b", 1.0)]:
        bench.append(0, 8, now=since, only={member})
    bench.append(8, 9, now=5.0, only={"c"}, flow=(1, HIGH))
    assert names(bench.bind(now=5.0)) == ["c", "a"]


def test_a_flood_on_one_ensemble_leaves_half_of_the_device_to_another():
    bench = Bench(["cpu:0"], {"a": {"cpu:0": 0.01}, "b": {"cpu:0": 0.02}})
    bench.append(0, 60, now=0.0, only={"a"}, flow=(0, NORMAL))
    now, seconds, head = 10.0, {"a": 0.0, "b": 0.0}, 64
    for _ in range(100):
        # The flood never ends; of the other ensemble one batch waits at a time.
        for member, flow in (("a", 0), ("b", 1)):
            if bench.members["ab".index(member)].pending.rows < 8:
                bench.append(head, head + 8, now=now, only={member}, flow=(flow, NORMAL))
                head += 8
        bench.bind(now)
        job = bench.finish("cpu:0", now)
        now += job.expected_s
        seconds[job.placement.member.name] += job.expected_s
    assert 0.4 < seconds["a"] / sum(seconds.values()) < 0.6


def test_who_comes_back_has_saved_no_time_up():
    bench = Bench(["cpu:0"], {"a": {"cpu:0": 0.01}, "b": {"cpu:0": 0.01}})
    now = 0.0
    for start in range(0, 80, 8):
        bench.append(start, start + 8, now=now, only={"a"}, flow=(0, NORMAL))
        bench.bind(now)
        bench.finish("cpu:0", now)
        now += 0.01
    for start in range(80, 160, 16):
        bench.append(start, start + 8, now=now, only={"a"}, flow=(0, NORMAL))
        bench.append(start + 8, start + 16, now=now, only={"b"}, flow=(1, NORMAL))
    order = []
    for _ in range(10):
        bench.bind(now)
        order.append(bench.finish("cpu:0", now).placement.member.name)
        now += 0.01
    assert "bbb" not in "".join(order)
    assert sorted(order) == ["a"] * 5 + ["b"] * 5
