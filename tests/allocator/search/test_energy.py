import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allocator.problem import Problem
from allocator.profiles import Profile, Profiles
from allocator.search.energy import (
    FloorError,
    UnknownEnergyError,
    joules_per_row,
    search_energy,
)
from allocator.search.energy_program import energy_of
from tests.allocator.test_problem import device, every_allocation, problems

FAST, FRUGAL = device("cuda:0", 0, kind="fast"), device("cuda:1", 0, kind="frugal")


def energy(member: str, kind: str, rows_per_s: float, joules: float | None) -> Profile:
    return Profile(member, kind, 1, 1 / rows_per_s, 0, joules=joules)


def problem(*profiles: Profile, devices=(FAST, FRUGAL), **more) -> Problem:
    members = tuple(dict.fromkeys(one.member for one in profiles))
    return Problem(members, devices, Profiles(profiles), **more)


def test_a_row_takes_what_the_busy_instances_do_in_proportion_to_their_speeds():
    one = problem(energy("a", "fast", 30, 4), energy("a", "frugal", 10, 1))
    both = one.matrix(np.array([[1], [1]]))
    assert joules_per_row(one, both) == pytest.approx((30 * 4 + 10 * 1) / 40, rel=1e-5)


def test_members_add_up_by_their_demand():
    one = problem(
        energy("a", "fast", 30, 4), energy("b", "fast", 30, 8), devices=(FAST,), demand={"b": 0.25}
    )
    assert joules_per_row(one, one.matrix(np.array([[1, 1]]))) == pytest.approx(4 + 0.25 * 8)


def test_a_member_with_time_to_spare_predicts_where_it_takes_the_least():
    one = problem(
        energy("a", "fast", 30, 4), energy("a", "frugal", 30, 1), energy("b", "frugal", 10, 2)
    )
    # b limits the traffic to 10 rows/s on a device of its own, so a may not use that time.
    crowded = one.matrix(np.array([[1, 0], [1, 1]]))
    assert joules_per_row(one, crowded) == pytest.approx(4 + 2, rel=1e-5)


@pytest.mark.parametrize("joules", [None, 3.0])
def test_an_instance_whose_energy_is_not_known_makes_it_unknown(joules):
    one = problem(energy("a", "fast", 30, 4), energy("b", "frugal", 30, joules))
    found = joules_per_row(one, one.matrix(np.eye(2, dtype=np.int64)))
    assert found == (None if joules is None else pytest.approx(7))


def test_rows_that_cost_a_device_time_of_their_own_leave_less_of_it():
    one = problem(
        energy("a", "fast", 30, 4), energy("a", "frugal", 30, 1), row_s={FRUGAL.name: 0.02}
    )
    both = one.matrix(np.array([[1], [1]]))
    # T = 37.5: a quarter of frugal's time is left for 7.5 rows/s.
    assert joules_per_row(one, both) == pytest.approx((30 * 4 + 7.5 * 1) / 37.5, rel=1e-5)
    alone = replace(one, row_s={})
    assert joules_per_row(alone, both) == pytest.approx(2.5, rel=1e-5)


@st.composite
def metered(draw):
    """A small problem with joules, some of its GPUs with idle power, and a rate."""
    one = draw(problems(most_devices=2, most_members=2))
    listed = [replace(p, joules=draw(st.integers(1, 20)) * p.batch**0.7) for p in one.profiles]
    idle = {each.name: draw(st.sampled_from((0.0, 50.0))) for each in one.devices}
    fastest = max((rate for _, rate in every_allocation(one)), default=0.0)
    share = draw(st.sampled_from((0.01, 0.3, 0.7, 0.99)))
    return replace(one, profiles=Profiles(listed), idle_watts=idle), share * fastest


@settings(max_examples=40)
@given(metered())
def test_nothing_takes_less_by_brute_force(case):
    one, rate = case
    assume(rate > 0)
    allocation, found = search_energy(one, min_rows_per_s=rate)
    assert one.faults(allocation.matrix) == []
    assert allocation.throughput_rows_s >= rate * (1 - 1e-5)
    taken = found.joules_per_row + found.idle_joules_per_row
    assert found.joules_per_row <= found.most_joules_per_row * (1 + 1e-6)
    assert found.bound_joules_per_row <= taken * (1 + 1e-6)
    best = math.inf
    for cells, rows_per_s in every_allocation(one):
        if rows_per_s >= rate and (least := energy_of(one, cells, rate)):
            used = [d.name for d, row in zip(one.devices, cells, strict=True) if row.any()]
            best = min(best, least[0] + sum(one.idle_watts[name] for name in used) / rate)
    assert taken == pytest.approx(best, rel=2e-3)
    assert found.bound_joules_per_row <= best * (1 + 1e-5)
    assert found.gap <= 2e-3


def test_what_should_not_run_has_no_instance():
    one = problem(energy("a", "fast", 30, 4), energy("a", "frugal", 10, 1))
    for rate, cells, joules in ((10, ((0,), (1,)), 1), (20, ((1,), (1,)), 2.5)):
        allocation, found = search_energy(one, min_rows_per_s=rate)
        assert allocation.matrix.cells == cells
        assert found.joules_per_row == pytest.approx(joules, rel=1e-5)
        # The one with the highest throughput could divide the rows in the same way.
        assert found.fastest_joules_per_row == pytest.approx(joules, rel=1e-5)
    # Late binding may let the fast one predict up to all of the 20 rows.
    assert found.most_joules_per_row == pytest.approx(4, rel=1e-5)


def test_idle_power_lets_one_device_do_what_two_could():
    one = problem(
        energy("a", "fast", 30, 4), energy("b", "frugal", 10, 1), energy("b", "fast", 90, 2)
    )
    assert search_energy(one, min_rows_per_s=5)[0].matrix.cells == ((1, 0), (0, 1))
    idle = replace(one, idle_watts={FAST.name: 40.0, FRUGAL.name: 40.0})
    allocation, found = search_energy(idle, min_rows_per_s=5)
    assert allocation.matrix.cells == ((1, 1), (0, 0))
    assert found.idle_joules_per_row == pytest.approx(8)
    assert found.fastest_joules_per_row == pytest.approx(4 + 1 + 16)


def test_more_than_is_possible_is_refused():
    one = problem(energy("a", "fast", 30, 4), energy("a", "frugal", 10, 1))
    with pytest.raises(FloorError, match="at most 40 are possible"):
        search_energy(one, min_rows_per_s=41)


def test_a_member_whose_energy_nobody_knows_is_named():
    one = problem(energy("a", "fast", 30, 4), energy("b", "fast", 10, None))
    with pytest.raises(UnknownEnergyError, match="member 'b' is not known"):
        search_energy(one, min_rows_per_s=1)
