import numpy as np
import pytest
from hypothesis import given

from allocator.problem import Device, NoPlaceError, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.greedy import worst_fit
from tests.allocator.test_problem import problems


def gpu(number, size):
    return Device(f"cuda:{number}", "A", size)


def cpu(number, size, pool=""):
    return Device(f"cpu:{number}", "cpu-1", size, (number,), pool)


def demands(devices, **sizes):
    """Members of which every instance takes so much, on any device, at batch size 8."""
    listed = (Profile(m, kind, 8, 1, size) for m, size in sizes.items() for kind in ("A", "cpu-1"))
    return Problem(tuple(sizes), tuple(devices), Profiles(listed))


def places(problem):
    matrix = problem.matrix(worst_fit(problem))
    return {member: device for device, member, _ in matrix.instances()}


@given(problems(batches=(1, 2, 8)))
def test_every_member_has_one_place_within_the_memory(problem):
    try:
        cells = worst_fit(problem)
    except NoPlaceError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        member = problem.members.index(refusal.member)
        for index, one in enumerate(problem.devices):
            for option in problem.options(index, member):
                assert option.memory_bytes > refusal.left_bytes[one.name]
        return
    assert problem.faults(problem.matrix(cells)) == []
    assert (np.count_nonzero(cells, axis=0) == 1).all()
    for device, member in np.argwhere(cells):
        assert cells[device, member] == problem.options(device, member)[0].batch


def test_the_biggest_goes_first_to_the_device_with_the_most_left():
    problem = demands([gpu(0, 60), gpu(1, 70)], small=20, big=50, middle=30)
    assert places(problem) == {"big": "cuda:1", "middle": "cuda:0", "small": "cuda:0"}


def test_equal_members_spread_over_equal_devices():
    problem = demands([cpu(0, 100), cpu(1, 100)], a=10, b=10, c=10)
    assert places(problem) == {"a": "cpu:0", "b": "cpu:1", "c": "cpu:0"}


def test_the_cpu_takes_part_when_the_gpus_are_full():
    problem = demands([cpu(0, 1000), gpu(0, 25)], a=10, b=10, c=10)
    assert places(problem) == {"a": "cuda:0", "b": "cuda:0", "c": "cpu:0"}


def test_devices_of_a_pool_fill_it_together():
    problem = demands([cpu(0, 40, "ram"), cpu(1, 40, "ram"), cpu(2, 25)], a=20, b=20, c=20)
    assert places(problem) == {"a": "cpu:0", "b": "cpu:2", "c": "cpu:0"}
    with pytest.raises(NoPlaceError, match="member 'd' needs 20 bytes"):
        worst_fit(demands(problem.devices, a=20, b=20, c=20, d=20))


def test_failure_names_the_member_its_need_and_what_was_left():
    problem = demands([gpu(0, 5 << 29), cpu(0, 300 << 20)], late=1 << 30, first=2 << 30)
    with pytest.raises(NoPlaceError) as raised:
        worst_fit(problem)
    assert str(raised.value) == (
        "member 'late' needs 1.0 GiB at batch size 8, short of 512.0 MiB; "
        "there is left: 512.0 MiB on cuda:0, 300.0 MiB on cpu:0"
    )


def test_a_member_that_fits_no_empty_device_is_refused_for_itself():
    """Not for what the others have left, although it comes last by its (unknown) size."""
    with pytest.raises(NoPlaceError) as caught:
        worst_fit(demands([gpu(0, 400)], small=300, big=500))
    assert (caught.value.member, caught.value.shortfall_bytes) == ("big", 100)
