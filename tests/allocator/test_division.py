"""Parts of CPU devices: their names, their sizes, and the problem of a division."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.division import (
    Divisible,
    leave_memory_to_workers,
    part_cores,
    part_name,
    thread_counts,
    whole_name,
)
from allocator.problem import Device, Problem
from allocator.profiles import Profiles

CORES = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)


@pytest.mark.parametrize(
    ("wanted", "cores", "counts"),
    [
        ((), 1, (1,)),
        ((), 2, (1, 2)),
        ((), 6, (1, 2, 4, 6)),
        ((), 16, (1, 2, 4, 8, 16)),
        ((4, 1), 6, (1, 4)),
        ((4, 8), 2, ()),
    ],
)
def test_parts_have_powers_of_two_and_all_cores_or_what_is_wanted(wanted, cores, counts):
    assert thread_counts(wanted, cores) == counts


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ((0,), "cpu:0/0"),
        ((0, 1, 2, 3), "cpu:0/0-3"),
        ((2, 0), "cpu:0/0,2"),
        ((1, 2, 5, 7, 8), "cpu:0/1-2,5,7-8"),
        (tuple(range(9)), "cpu:0"),
    ],
)
def test_names_of_parts(own, name):
    assert part_name("cpu:0", range(9), own) == name


@given(CORES)
def test_the_name_of_a_part_says_what_it_is(own):
    name = part_name("cpu:7", range(41), own)
    assert (whole_name(name), part_cores(name)) == ("cpu:7", tuple(sorted(own)))


@pytest.mark.parametrize("name", ["cpu:0", "cuda:1", "cpu:0/", "cpu:0/a", "cpu:0/1-", "/1", "x/1,"])
def test_other_names_are_those_of_whole_devices(name):
    assert (whole_name(name), part_cores(name)) == (name, ())


def test_a_name_lists_no_more_cores_than_there_can_be():
    assert len(part_cores("cpu:0/0-999999")) < 20_000
    assert part_cores("cpu:0/3-1") == ()
    assert part_cores("cpu:0/0-9999999999") == ()


def divisible():
    """A device of four cores, one of two, both in the RAM of 1000 bytes; and a GPU."""
    devices = (
        Device("cuda:0", "GPU", 500),
        Device("cpu:0", "cpu-4", 1000, (4, 5, 6, 7), "ram"),
        Device("cpu:1", "cpu-2", 1000, (8, 9), "ram"),
    )
    row_s = {"cpu:0": 0.1, "cpu:1": 0.2}
    problem = Problem(("a",), devices, Profiles(()), row_s, {"a": 2.0})
    counts = {"cpu:0": (1, 2, 4), "cpu:1": (1, 2)}
    return Divisible(problem, counts, {"cpu-1": 10, "cpu-2": 20, "cpu-4": 40, "GPU": 100})


def test_the_parts_of_a_division_are_devices():
    found = divisible().divided({"cpu:0": (2, 1), "cpu:1": (2,)})
    assert [(one.name, one.kind, one.cores) for one in found.devices] == [
        ("cuda:0", "GPU", ()),
        ("cpu:0/4-5", "cpu-2", (4, 5)),
        ("cpu:0/6", "cpu-1", (6,)),
        ("cpu:1", "cpu-2", (8, 9)),
    ]
    assert found.row_s == {"cpu:0/4-5": 0.1, "cpu:0/6": 0.1, "cpu:1": 0.2}
    assert found.demand == {"a": 2.0}
    # Three workers take 20, 10 and 20 bytes of the RAM.
    assert [domain.memory_bytes for domain in found.memory_domains] == [400, 950]


def test_parts_of_a_device_with_memory_of_its_own_share_it():
    whole = Problem(("a",), (Device("cpu:0", "cpu-2", 100, (0, 1)),), Profiles(()))
    found = Divisible(whole, {"cpu:0": (1, 2)}, {"cpu-1": 30}).divided({"cpu:0": (1, 1)})
    assert [domain.memory_bytes for domain in found.memory_domains] == [40]
    assert found.memory_domains[0].devices == (0, 1)


def test_equal_parts_leave_cores_over_where_they_must():
    one = divisible()
    assert one.uniform(4) == {"cpu:0": (4,), "cpu:1": (2,)}
    assert one.uniform(1) == {"cpu:0": (1, 1, 1, 1), "cpu:1": (1, 1)}
    assert Divisible(one.whole, {"cpu:0": (3,)}).uniform(3) == {"cpu:0": (3,)}


def test_workers_never_leave_less_than_nothing():
    devices = leave_memory_to_workers([Device("cpu:0", "cpu-1", 5)], {"cpu-1": 7})
    assert devices[0].memory_bytes == 0
