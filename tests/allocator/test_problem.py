"""The problem's own answers; and, for the tests of the searches, random small problems."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.matrix import AllocationMatrix
from allocator.problem import Device, MemoryDomain, NoPlaceError, Problem, readable_bytes
from allocator.profiles import Profile, Profiles
from allocator.search.throughput import ThroughputModel

KINDS = ("A", "B")


def device(name, memory, kind="A", pool=""):
    return Device(name, kind, memory, pool=pool)


def profiles(**members):
    """Profiles on kind A: by member, (rows/s, memory) by batch size."""
    return Profiles(
        Profile(member, "A", batch, batch / speed, memory)
        for member, batches in members.items()
        for batch, (speed, memory) in batches.items()
    )


@st.composite
def problems(draw, *, most_devices=3, most_members=3, batches=(1, 4), pools=True, row_s=True):
    """Small problems: two kinds, missing profiles, full and empty devices, shared memory."""
    devices = []
    pool_bytes = draw(st.sampled_from((60, 40, 25, 15, 0)))
    for index in range(draw(st.integers(1, most_devices))):
        pool = draw(st.sampled_from(("", "ram"))) if pools else ""
        size = pool_bytes if pool else draw(st.sampled_from((40, 32, 24, 18, 13, 9, 0)))
        devices.append(device(f"cuda:{index}", size, draw(st.sampled_from(KINDS)), pool))
    members = [f"m{index}" for index in range(draw(st.integers(1, most_members)))]
    listed = []
    for member in members:
        base, per_row = draw(st.integers(0, 12)), draw(st.integers(0, 3))
        for kind in KINDS:
            for batch in batches if draw(st.integers(0, 14)) != 14 else ():
                latency_s = draw(st.integers(1, 20)) / 1000 * batch**0.5
                listed.append(Profile(member, kind, batch, latency_s, base + per_row * batch))
    own_s = {}
    if row_s and draw(st.booleans()):
        own_s = {one.name: draw(st.integers(0, 3)) / 1000 for one in devices}
    demand = {}
    if draw(st.booleans()):
        demand = {member: draw(st.sampled_from((0.01, 0.3, 1.0, 2.5))) for member in members}
    return Problem(tuple(members), tuple(devices), Profiles(listed), own_s, demand)


def every_allocation(problem):
    """Yield all feasible cells and their throughput, by brute force."""
    model = ThroughputModel(problem)
    choices = [
        [0, *problem.profiles.of(member, one.kind)]
        for one in problem.devices
        for member in problem.members
    ]
    for index in np.ndindex(*map(len, choices)):
        chosen = [options[i] for options, i in zip(choices, index, strict=True)]
        cells = np.array(chosen, np.int64).reshape(len(problem.devices), -1)
        fits = (problem.used_bytes(cells) <= problem.capacity_bytes).all()
        if fits and cells.any(axis=0).all():
            model.put_all(cells)
            yield cells, model.rows_per_s()


def two_devices(**changes):
    fields = {
        "members": ("a", "b"),
        "devices": (device("cuda:0", 100), device("cuda:1", 50)),
        "profiles": profiles(a={1: (10, 10), 8: (50, 60)}, b={4: (20, 30)}),
    }
    return Problem(**{**fields, **changes})


def test_devices_of_a_pool_are_one_memory_domain_of_the_least_size_they_state():
    devices = (
        device("cpu:0", 80, "cpu-2", "ram"),
        device("cuda:0", 50),
        device("cpu:1", 70, "cpu-1", "ram"),
    )
    problem = Problem(("a",), devices, Profiles(()))
    assert problem.memory_domains == (MemoryDomain((0, 2), 70), MemoryDomain((1,), 50))
    assert problem.domain_of == (0, 1, 0)
    assert list(problem.capacity_bytes) == [70, 50]


def test_options_are_what_fits_an_empty_device():
    problem = two_devices()
    assert [one.batch for one in problem.options(0, 0)] == [1, 8]
    assert [one.batch for one in problem.options(1, 0)] == [1]
    assert problem.options(0, 1) == problem.options(1, 1)


@given(problems(batches=(1, 2, 4, 8)))
def test_efficient_options_are_those_that_nothing_beats(problem):
    for at in np.ndindex(len(problem.devices), len(problem.members)):
        options, efficient = problem.options(*at), problem.efficient(*at)
        assert set(efficient) <= set(options)
        for one in options:
            assert any(
                other.memory_bytes <= one.memory_bytes and other.rows_per_s >= one.rows_per_s
                for other in efficient
            )
        for before, after in zip(efficient, efficient[1:], strict=False):
            assert before.memory_bytes < after.memory_bytes
            assert before.rows_per_s < after.rows_per_s


@pytest.mark.parametrize(
    ("members", "devices", "cells", "faults"),
    [
        (("a", "b"), ("cuda:0", "cuda:1"), ((8, 4), (1, 0)), []),
        (("b", "a"), ("cuda:1",), ((4, 1),), []),
        (("a",), ("cuda:0",), ((1,),), ["member 'b' has no column"]),
        (
            ("a", "b", "c"),
            ("cuda:0",),
            ((1, 4, 1),),
            ["member 'c' is not there"],
        ),
        (("a", "b"), ("cuda:7",), ((1, 4),), ["device 'cuda:7' is not there"]),
        (
            ("a", "b"),
            ("cuda:0", "cuda:1"),
            ((2, 4), (0, 1)),
            [
                "member 'a' has no batch size 2 on cuda:0 (A)",
                "member 'b' has no batch size 1 on cuda:1 (A)",
            ],
        ),
        (
            ("a", "b"),
            ("cuda:0", "cuda:1"),
            ((0, 4), (8, 0)),
            ["cuda:1: its instances take 60 bytes, it has 50 bytes"],
        ),
    ],
)
def test_a_matrix_has_a_line_per_fault(members, devices, cells, faults):
    assert two_devices().faults(AllocationMatrix(members, devices, cells)) == faults


def test_a_pool_is_too_full_where_its_devices_are_together():
    devices = (device("cpu:0", 50, "A", "ram"), device("cpu:1", 50, "A", "ram"))
    problem = two_devices(devices=devices)
    assert problem.faults(AllocationMatrix(("a", "b"), ("cpu:0", "cpu:1"), ((1, 0), (0, 4)))) == []
    full = AllocationMatrix(("a", "b"), ("cpu:0", "cpu:1"), ((1, 4), (1, 4)))
    assert problem.faults(full) == ["cpu:0 + cpu:1: its instances take 80 bytes, it has 50 bytes"]


def test_cells_and_matrix_tell_the_same():
    problem = two_devices()
    cells = np.array([[8, 0], [1, 4]])
    assert (problem.cells_of(problem.matrix(cells)) == cells).all()
    turned = AllocationMatrix(("b", "a"), ("cuda:1", "cuda:0"), ((4, 1), (0, 8)))
    assert (problem.cells_of(turned) == cells).all()
    assert list(problem.used_bytes(cells)) == [60, 40]
    assert problem.left_bytes(cells) == {"cuda:0": 40, "cuda:1": 10}


def test_only_what_is_profiled_is_available():
    with pytest.raises(KeyError):
        two_devices().used_bytes(np.array([[3, 0], [0, 0]]))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"members": ()}, "there is no member"),
        ({"devices": ()}, "there is no device"),
        ({"members": ("a", "b", "a")}, "member 'a' is there twice"),
        ({"devices": (device("x", 1), device("x", 2))}, "device 'x' is there twice"),
        ({"demand": {"a": 0.0}}, "the demand of member 'a' should be above 0, not 0.0"),
        ({"demand": {"c": 1.0}}, "a demand of member 'c', which is not there"),
    ],
)
def test_nonsense_is_refused_in_one_line(change, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        two_devices(**change)


def test_a_refusal_names_the_member_and_the_least_that_is_missing():
    refusal = two_devices().refuse(1, {"cuda:0": 10, "cuda:1": 18})
    assert isinstance(refusal, NoPlaceError)
    assert (refusal.member, refusal.needed_bytes, refusal.shortfall_bytes) == ("b", 30, 12)
    assert refusal.left_bytes == {"cuda:0": 10, "cuda:1": 18}
    assert str(refusal) == (
        "member 'b' needs 30 bytes at batch size 4, short of 12 bytes; "
        "there is left: 10 bytes on cuda:0, 18 bytes on cuda:1"
    )


def test_a_refusal_says_when_a_member_runs_nowhere():
    refusal = two_devices(members=("a", "b", "c")).refuse(2, {"cuda:0": 10, "cuda:1": 18})
    assert refusal.needed_bytes is None
    assert str(refusal) == "member 'c' has no profile for any of the devices"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")],
)
def test_sizes_are_for_people(size, text):
    assert readable_bytes(size) == text


@settings(max_examples=20)
@given(problems(most_devices=2, most_members=2))
def test_brute_force_yields_what_has_no_fault(problem):
    for cells, _ in every_allocation(problem):
        assert problem.faults(problem.matrix(cells)) == []
