"""The search for a division, against brute force over all divisions of small hosts."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.division import Divisible, thread_counts
from allocator.problem import Device, NoPlaceError, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.division import search_divided, search_divided_latency
from allocator.search.latency import OverloadError
from allocator.search.search import search

FEW = settings(max_examples=15)


def amdahl(member, one_core_s, parallel, memory, *, counts=(1, 2, 4), batches=(1, 4)):
    """Profiles of a member of which a share runs in parallel; batches of four are faster."""
    return [
        Profile(
            member,
            f"cpu-{count}",
            batch,
            one_core_s * batch**0.9 * (1 - parallel + parallel / count),
            memory + batch,
        )
        for count in counts
        for batch in batches
    ]


@st.composite
def hosts(draw):
    """Up to two CPU devices of one to four cores and, maybe, a GPU; little memory or much."""
    sizes = draw(st.sampled_from([(1,), (2,), (3,), (4,), (2, 2), (2, 1)]))
    pool = draw(st.sampled_from(("", "ram")))
    memory = draw(st.sampled_from((40, 80, 130, 400)))
    devices = [
        Device(
            f"cpu:{index}", f"cpu-{size}", memory, tuple(range(10 * index, 10 * index + size)), pool
        )
        for index, size in enumerate(sizes)
    ]
    if draw(st.booleans()):
        devices.append(Device("cuda:0", "GPU", draw(st.sampled_from((15, 40)))))
    members = [f"m{index}" for index in range(draw(st.integers(1, 2)))]
    listed = []
    for member in members:
        seconds, size = draw(st.integers(1, 9)) / 100, draw(st.integers(3, 25))
        parallel = draw(st.sampled_from((0.0, 0.5, 0.9, 1.1)))  # more than all: caches
        listed += amdahl(member, seconds, parallel, size, counts=(1, 2, 3, 4))
        if draw(st.booleans()):
            listed.append(Profile(member, "GPU", 4, seconds, size))
    row_s = {}
    if draw(st.booleans()):
        row_s = {one.name: 0.002 for one in devices if one.cores}
    counts = {one.name: thread_counts((), len(one.cores)) for one in devices if one.cores}
    problem = Problem(tuple(members), tuple(devices), Profiles(listed), row_s)
    return Divisible(problem, counts, {f"cpu-{size}": 8 + size for size in (1, 2, 3, 4)})


def every_division(divisible):
    """All ways to divide every device into parts, which may leave cores over."""

    def partitions(cores, counts):
        yield ()
        for count in counts:
            if count <= cores:
                smaller = [one for one in counts if one <= count]
                yield from ((count, *rest) for rest in partitions(cores - count, smaller))

    names = list(divisible.counts)
    each = [partitions(divisible.cores[name], divisible.counts[name]) for name in names]
    for chosen in itertools.product(*map(list, each)):
        yield dict(zip(names, chosen, strict=True))


def best_of_all(divisible):
    """The highest throughput on any division, 0 if the members fit on none."""
    found = [0.0]
    for division in every_division(divisible):
        try:
            found.append(search(divisible.divided(division), solver="exact").throughput_rows_s)
        except (NoPlaceError, ValueError):  # no place, or no device
            continue
    return max(found)


@FEW
@given(hosts())
def test_small_hosts_are_divided_as_by_brute_force(divisible):
    best = best_of_all(divisible)
    if not best:
        with pytest.raises(NoPlaceError):
            search_divided(divisible, solver="exact")
        return
    found = search_divided(divisible, solver="exact", time_limit_s=20)
    allocation = found.allocation
    assert found.problem.faults(allocation.matrix) == []
    assert allocation.throughput_rows_s >= best * 0.9985
    assert allocation.bound_rows_s >= best * (1 - 1e-6)
    assert allocation.gap <= 2e-3
    for baseline in ("whole_devices", "smallest_parts"):
        assert (allocation.baselines[baseline] or 0.0) <= allocation.bound_rows_s


@FEW
@given(hosts())
def test_parts_of_a_device_never_share_a_core(divisible):
    try:
        devices = search_divided(divisible, time_limit_s=2).problem.devices
    except NoPlaceError:
        return
    cores = [core for device in devices for core in device.cores]
    assert len(cores) == len(set(cores))
    there = {core for device in divisible.whole.devices for core in device.cores}
    assert set(cores) <= there
    assert all(device.kind == f"cpu-{len(device.cores)}" for device in devices if device.cores)


def host(cores, memory, members, **fields):
    """A CPU of so many cores, and members as (seconds on a core, parallel share, memory)."""
    device = Device("cpu:0", f"cpu-{cores}", memory, tuple(range(cores)), "ram")
    counts = thread_counts((), cores)
    listed = [
        one
        for index, (seconds, parallel, size) in enumerate(members)
        for one in amdahl(f"m{index}", seconds, parallel, size, counts=counts)
    ]
    names = tuple(f"m{index}" for index in range(len(members)))
    problem = Problem(names, (device,), Profiles(listed), **fields)
    return Divisible(problem, {"cpu:0": counts}, dict.fromkeys((f"cpu-{c}" for c in counts), 50))


def test_with_much_memory_cores_work_alone():
    found = search_divided(host(16, 1 << 40, [(0.01, 0.9, 10), (0.03, 0.99, 10)]))
    assert [len(one.cores) for one in found.problem.devices] == [1] * 16
    assert found.allocation.gap <= 0.01


def test_with_little_memory_cores_share_a_model():
    """Copies for four workers fit in the memory: each has four cores; without that, few work."""
    found = search_divided(host(16, 4 * 1050 + 100, [(0.5, 0.95, 1000)]))
    allocation = found.allocation
    assert [len(one.cores) for one in found.problem.devices] == [4] * 4
    assert allocation.throughput_rows_s > 4 * allocation.baselines["smallest_parts"]
    assert allocation.throughput_rows_s > 1.5 * allocation.baselines["whole_devices"]
    assert allocation.gap <= 0.01


def test_fewest_workers_are_preferred_where_all_are_as_fast():
    found = search_divided(host(4, 1 << 30, [(0.01, 1.0, 10), (0.02, 1.0, 10)]))
    assert [one.name for one in found.problem.devices] == ["cpu:0"]
    almost = search_divided(host(4, 1 << 30, [(0.01, 0.997, 10)]), tolerance=0.01)
    assert [one.name for one in almost.problem.devices] == ["cpu:0"]


def test_networks_get_cores_unequally():
    """A big model scales and has room for one copy; a small one does not scale at all."""
    found = search_divided(host(4, 1000, [(0.1, 1.0, 700), (0.05, 0.0, 10)]), solver="exact")
    cells = zip(found.allocation.matrix.cells, found.problem.devices, strict=True)
    cores = {len(device.cores) for row, device in cells if row[0]}
    assert cores == {2}
    assert found.allocation.gap <= 2e-4


def test_what_fits_nowhere_is_refused():
    with pytest.raises(NoPlaceError, match="member 'm0' needs"):
        search_divided(host(4, 100, [(0.1, 1.0, 700)]))


def test_devices_that_are_not_divisible_are_searched_as_ever():
    divisible = host(4, 1000, [(0.1, 1.0, 100)])
    whole = Divisible(divisible.whole, {}, divisible.worker_bytes)
    found = search_divided(whole)
    assert found.allocation.matrix.devices == ("cpu:0",)
    assert "whole_devices" not in found.allocation.baselines


def test_big_hosts_take_no_longer_than_they_may():
    members = [
        (0.005 * (1 + index % 4), 0.8 + 0.02 * index, 60 + 40 * index) for index in range(10)
    ]
    found = search_divided(host(64, 15_000, members), time_limit_s=3)
    allocation = found.allocation
    assert found.problem.faults(allocation.matrix) == []
    # How far it comes in that time depends on what else the machine does.
    assert allocation.throughput_rows_s >= allocation.baselines["smallest_parts"]
    assert 0 <= allocation.gap < 1


def test_for_latency_few_rows_have_many_cores_and_many_have_few():
    divisible = host(4, 1 << 30, [(0.1, 0.9, 10)])
    slow = search_divided_latency(divisible, rate_rows_s=0.2, time_limit_s=2)
    assert [one.name for one in slow.problem.devices] == ["cpu:0"]
    fast = search_divided_latency(divisible, rate_rows_s=40, time_limit_s=2)
    assert len(fast.problem.devices) > 1
    assert fast.figures is not None
    with pytest.raises(OverloadError):
        search_divided_latency(divisible, rate_rows_s=4000, time_limit_s=2)
