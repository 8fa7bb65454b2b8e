import numpy as np
import pytest
from hypothesis import given, settings

from allocator.problem import Problem
from allocator.search.relaxation import InfeasibleError, counting_bound, upper_bound
from tests.allocator.test_problem import device, every_allocation, problems, profiles

SAME = 1 + 1e-6


def bounds(problem, time_limit_s=5.0):
    simple = upper_bound(problem, time_limit_s)
    counted = counting_bound(problem, time_limit_s, known=simple, max_nodes=100)
    return simple, counted


@settings(max_examples=25)
@given(problems(most_members=2))
def test_no_allocation_is_faster_and_none_exists_where_that_is_said(problem):
    best = max((throughput for _, throughput in every_allocation(problem)), default=0.0)
    try:
        simple, counted = bounds(problem)
    except InfeasibleError:
        assert best == 0
        return
    assert best <= counted * SAME
    assert counted <= simple * (1 + 1e-4)


def test_a_bound_is_exact_where_nothing_is_scarce():
    devices = tuple(device(f"cuda:{index}", 100) for index in range(3))
    problem = Problem(("a", "b"), devices, profiles(a={1: (10, 5)}, b={1: (30, 5)}))
    assert list(bounds(problem)) == pytest.approx([3 / (1 / 10 + 1 / 30)] * 2)


def test_copies_are_whole_and_big_ones_are_alone():
    # Each device holds one of the members, so one of the two has a single device.
    devices = tuple(device(f"cuda:{index}", 50) for index in range(3))
    problem = Problem(("a", "b"), devices, profiles(a={1: (10, 30)}, b={1: (10, 30)}))
    simple, counted = bounds(problem)
    assert simple >= counted * (1 - 1e-6)
    assert counted == pytest.approx(10)


def test_a_pool_is_limited_as_a_whole():
    devices = tuple(device(f"cpu:{index}", 50, "A", "ram") for index in range(4))
    problem = Problem(("a",), devices, profiles(a={1: (10, 25)}))
    assert list(bounds(problem)) == pytest.approx([20, 20])


def test_many_sizes_of_memory_stay_bounded():
    generator = np.random.default_rng(1)
    devices = tuple(device(f"cuda:{d}", int(generator.integers(20, 90))) for d in range(40))
    problem = Problem(("a", "b"), devices, profiles(a={1: (10, 30), 8: (50, 60)}, b={1: (9, 25)}))
    fits_b = sum(one.memory_bytes >= 25 for one in devices)
    for bound in bounds(problem):
        assert 0 < bound <= 9 * fits_b * SAME


def test_too_many_members_are_infeasible():
    devices = (device("cuda:0", 50), device("cuda:1", 50))
    one = {1: (10, 30)}
    problem = Problem(("a", "b", "c"), devices, profiles(a=one, b=one, c=one))
    with pytest.raises(InfeasibleError):
        list(bounds(problem))


@pytest.mark.parametrize("time_limit_s", [0.0, 0.001])
def test_a_bound_is_a_bound_whenever_the_time_is_up(time_limit_s):
    devices = tuple(device(f"cuda:{index}", 50) for index in range(3))
    problem = Problem(("a", "b"), devices, profiles(a={1: (10, 30)}, b={1: (10, 30)}))
    assert all(bound >= 10 * (1 - 1e-6) for bound in bounds(problem, time_limit_s))
