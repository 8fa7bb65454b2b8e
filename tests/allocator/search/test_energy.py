from dataclasses import replace

import numpy as np
import pytest

from allocator.problem import Problem
from allocator.profiles import Profile, Profiles
from allocator.search.energy import joules_per_row
from tests.allocator.test_problem import device

FAST, FRUGAL = device("cuda:0", 0, kind="fast"), device("cuda:1", 0, kind="frugal")


def energy(member: str, kind: str, rows_per_s: float, joules: float | None) -> Profile:
    return Profile(member, kind, 1, 1 / rows_per_s, 0, joules=joules)


def problem(*profiles: Profile, devices=(FAST, FRUGAL), **more) -> Problem:
    members = tuple(dict.fromkeys(one.member for one in profiles))
    return Problem(members, devices, Profiles(profiles), **more)


def test_a_row_takes_what_the_busy_instances_do_in_proportion_to_their_speeds():
    one = problem(energy("a", "fast", 30, 4), energy("a", "frugal", 10, 1))
    both = one.matrix(np.array([[1], [1]]))
    assert joules_per_row(one, both) == pytest.approx((30 * 4 + 10 * 1) / 40)


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
    assert joules_per_row(one, crowded) == pytest.approx(4 + 2)


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
    assert joules_per_row(one, both) == pytest.approx((30 * 4 + 7.5 * 1) / 37.5)
    alone = replace(one, row_s={})
    assert joules_per_row(alone, both) == pytest.approx(2.5)
