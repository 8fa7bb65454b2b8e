import numpy as np
import pytest
from hypothesis import given, settings

from allocator.problem import Problem
from allocator.search.master import Master
from allocator.search.packings import list_packings
from allocator.search.relaxation import upper_bound
from allocator.search.search import search
from allocator.search.throughput import solve_throughput
from benchmarks.study.cases import ENSEMBLES
from benchmarks.study.roofline import estimate, gpus
from tests.allocator.test_problem import device, every_allocation, problems, profiles

MIB = 1 << 20


@settings(max_examples=30)
@given(problems(most_members=2))
def test_no_allocation_is_faster_than_bounds_of_fractions_and_of_whole_packings(problem):
    best = max((throughput for _, throughput in every_allocation(problem)), default=0.0)
    packings = list_packings(problem)
    if packings is None or not best:
        return
    high, master = upper_bound(problem, 5.0), Master(packings)
    for low in (0.0, best):
        assert best <= master.upper_bound(5.0, low=low, high=high) * (1 + 1e-6)
    for most in (1, master.size):
        found = master.fastest(5.0, low=0.5 * best, high=high, most=most, gap=1e-4)
        assert found.bound >= best * (1 - 1e-6)
    assert found.finished
    if not any(packings.row_seconds):  # else the time depends on the throughput
        assert found.bound == pytest.approx(best, rel=2e-4)
        assert solve_throughput(problem, found.cells)[0] == pytest.approx(best, rel=2e-4)


def test_fractions_of_packings_are_exact_where_members_share_devices_in_one_way():
    """Of 2 x 2 that fit, only a slow one and a fast one together keep up."""
    devices = (device("cuda:0", 10), device("cuda:1", 10))
    rates = {"a": 10, "b": 10, "c": 40, "d": 40}
    problem = Problem(
        tuple(rates), devices, profiles(**{name: {1: (rate, 5)} for name, rate in rates.items()})
    )
    master = Master(list_packings(problem))
    assert master.upper_bound(5.0, low=4.0, high=20.0) == pytest.approx(8.0, rel=2e-3)
    found = master.fastest(5.0, low=4.0, high=20.0, most=100, gap=1e-4)
    assert found.bound == pytest.approx(8.0, rel=1e-3)
    assert (found.cells.reshape(2, 2, 2).sum(axis=2) == 1).all()


def test_nothing_better_is_proven_at_once():
    problem = Problem(("a",), (device("cuda:0", 5),), profiles(a={1: (10, 5)}))
    found = Master(list_packings(problem)).fastest(5.0, low=10.1, high=12.0, most=9, gap=1e-4)
    assert found.cells is None
    assert found.finished
    assert found.bound == 10.1


def test_a_bound_is_a_bound_whenever_the_time_is_up():
    devices = tuple(device(f"cuda:{index}", 50) for index in range(3))
    problem = Problem(("a", "b"), devices, profiles(a={1: (10, 30)}, b={1: (10, 30)}))
    for seconds in (0.0, 0.001, 5.0):
        bound = Master(list_packings(problem)).upper_bound(seconds, low=0.0, high=20.0)
        assert bound >= 10 * (1 - 1e-6)


@pytest.mark.parametrize(
    ("kinds", "count", "memory", "best"),
    [(("v100",), 4, 1786, 47.113), (("v100",), 4, 2061, 93.752), (("a100", "t4"), 4, 1786, 50.094)],
)
def test_pools_where_devices_hold_three_networks_are_solved(kinds, count, memory, best):
    """By a long search over all instances the first is the best; it has never proven one."""
    devices = [
        one
        for index, kind in enumerate(kinds)
        for one in gpus(kind, count // len(kinds), memory=memory * MIB, first=2 * index)
    ]
    problem = Problem(ENSEMBLES[12], tuple(devices), estimate(ENSEMBLES[12], kinds))
    found = search(problem, solver="exact", time_limit_s=60.0)
    assert not found.time_limited
    assert found.throughput_rows_s == pytest.approx(best, rel=2e-4)
    assert found.gap <= 1e-3
    assert np.count_nonzero(problem.cells_of(found.matrix)) >= 12
