import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.devices import Device
from allocator.replicate import replicate
from allocator.worst_fit import Demand, NoPlaceError, worst_fit


def gpu(number, size):
    return Device(f"cuda:{number}", "V100", size)


def cpu(number, size):
    return Device(f"cpu:{number}", "cpu", size, (number,))


def spread(matrix):
    placed = {}
    for device, member, _ in matrix.instances():
        placed.setdefault(member, []).append(device)
    return placed


def used_bytes(matrix, demands, device):
    need = {demand.member: demand.memory_bytes for demand in demands}
    return sum(need[member] for name, member, _ in matrix.instances() if name == device.name)


sizes = st.lists(st.integers(0, 100), min_size=1, max_size=8)


@st.composite
def problems(draw):
    demands = [Demand(f"m{i}", 8, size) for i, size in enumerate(draw(sizes))]
    gpus = [gpu(i, size) for i, size in enumerate(draw(st.lists(st.integers(0, 150), max_size=3)))]
    cpus = [cpu(i, size) for i, size in enumerate(draw(sizes)[: 4 - len(gpus)])]
    return demands, gpus + cpus


@given(problems())
def test_every_member_has_one_place_within_the_memory(problem):
    demands, devices = problem
    failure = None
    try:
        matrix = worst_fit(demands, devices)
    except NoPlaceError as error:
        failure = error
    if failure is not None:
        assert max(failure.left_bytes.values()) < failure.demand.memory_bytes
        return
    assert [len(places) for places in spread(matrix).values()] == [1] * len(demands)
    assert all(used_bytes(matrix, demands, one) <= one.memory_bytes for one in devices)


@given(problems())
def test_replicas_stay_in_memory_and_leave_no_room(problem):
    demands, devices = problem
    try:
        first = worst_fit(demands, devices)
    except NoPlaceError:
        return
    matrix = replicate(first, demands, devices)
    assert matrix == replicate(first, demands, devices)
    assert set(first.instances()) <= set(matrix.instances())
    places = spread(matrix)
    for device in devices:
        left = device.memory_bytes - used_bytes(matrix, demands, device)
        assert left >= 0
        for demand in demands:
            on = places[demand.member]
            assert len({name.split(":")[0] for name in on}) == 1
            if device.name not in on and device.name.split(":")[0] == on[0].split(":")[0]:
                assert demand.memory_bytes > left


def test_the_biggest_goes_first_to_the_device_with_the_most_left():
    demands = [Demand("small", 8, 20), Demand("big", 8, 50), Demand("middle", 8, 30)]
    matrix = worst_fit(demands, [gpu(0, 60), gpu(1, 70)])
    assert spread(matrix) == {"big": ["cuda:1"], "middle": ["cuda:0"], "small": ["cuda:0"]}
    assert matrix.members == ("small", "big", "middle")


def test_equal_members_spread_over_equal_devices():
    demands = [Demand(name, 8, 10) for name in "abc"]
    matrix = worst_fit(demands, [cpu(0, 100), cpu(1, 100)])
    assert spread(matrix) == {"a": ["cpu:0"], "b": ["cpu:1"], "c": ["cpu:0"]}


def test_the_cpu_takes_part_when_the_gpus_are_full():
    demands = [Demand(name, 8, 10) for name in "abc"]
    matrix = worst_fit(demands, [cpu(0, 1000), gpu(0, 25)])
    assert spread(matrix) == {"a": ["cuda:0"], "b": ["cuda:0"], "c": ["cpu:0"]}


def test_failure_names_the_member_its_need_and_what_was_left():
    demands = [Demand("fits", 4, 2 << 30), Demand("huge", 8, 3 << 30)]
    with pytest.raises(NoPlaceError) as raised:
        worst_fit(demands, [gpu(0, 5 << 29), cpu(0, 300 << 20)])
    assert str(raised.value) == (
        "member 'huge' needs 3.0 GiB at batch size 8, "
        "but there is left: 2.5 GiB on cuda:0, 300.0 MiB on cpu:0"
    )


def test_without_devices_nothing_has_a_place():
    with pytest.raises(NoPlaceError, match="no device"):
        worst_fit([Demand("a", 1, 0)], [])


def test_replicas_fill_the_devices_of_the_same_class():
    demands = [Demand("a", 8, 10), Demand("b", 4, 10)]
    devices = [gpu(0, 100), gpu(1, 100), cpu(0, 100)]
    matrix = replicate(worst_fit(demands, devices), demands, devices)
    assert matrix.cells == ((8, 4), (8, 4), (0, 0))


def test_scarce_room_goes_to_the_member_with_the_fewest_instances():
    demands = [Demand("a", 8, 10), Demand("b", 8, 10)]
    devices = [cpu(0, 20), cpu(1, 10), cpu(2, 10)]
    matrix = replicate(worst_fit(demands, devices), demands, devices)
    assert sorted(len(places) for places in spread(matrix).values()) == [2, 2]
