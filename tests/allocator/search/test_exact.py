import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.problem import Problem
from allocator.profiles import Profiles
from allocator.search import branch
from allocator.search.exact import Clock, Effort, SearchResult, exact, fewest_instances
from allocator.search.throughput import solve_throughput
from tests.allocator.test_problem import device, every_allocation, problems, profiles

FEW = settings(max_examples=20)
TINY = st.one_of(
    problems(most_devices=2, most_members=2, batches=(1, 2, 4)),
    problems(most_devices=3, most_members=2),
    problems(most_devices=2, most_members=3),
    problems(batches=(2,)),
)


def run(problem, start, seconds=5.0, **effort):
    clock = Clock(seconds)
    found = exact(problem, [start], clock=clock, effort=Effort(**effort), seed=0)
    return found, clock


@FEW
@given(TINY)
def test_tiny_problems_are_solved_as_by_brute_force(problem):
    known = list(every_allocation(problem))
    if not known:
        return
    best = max(throughput for _, throughput in known)
    found, clock = run(problem, known[0][0])
    assert not clock.limited
    assert problem.faults(problem.matrix(found.cells)) == []
    assert found.throughput == pytest.approx(best, rel=1e-4)
    assert best * (1 - 1e-6) <= found.bound <= best * (1 + 2e-4)
    assert found.gap <= 2e-4

    thin = fewest_instances(problem, found, clock=clock)
    assert problem.faults(problem.matrix(thin.cells)) == []
    assert thin.throughput >= 0.999 * found.throughput * (1 - 1e-6)
    sizes = {share: math.inf for share in (0.9985, 0.9991)}
    for (cells, throughput), share in itertools.product(known, sizes):
        if throughput >= share * best:
            sizes[share] = min(sizes[share], np.count_nonzero(cells))
    assert sizes[0.9985] <= np.count_nonzero(thin.cells) <= sizes[0.9991]


@FEW
@given(problems(most_devices=2, most_members=2, row_s=False), st.integers(0, 40))
def test_more_devices_and_more_memory_never_make_it_slower(problem, memory):
    known = list(every_allocation(problem))
    if not known:
        return
    start = known[0][0]
    before = run(problem, start)[0].throughput

    wider = (*problem.devices, device("cuda:9", memory))
    more = replace(problem, devices=wider)
    after, _ = run(more, np.vstack([start, np.zeros((1, start.shape[1]), np.int64)]))
    assert after.throughput >= before * (1 - 1e-4)

    bigger = tuple(
        device(one.name, one.memory_bytes + memory, one.kind, one.pool) for one in problem.devices
    )
    after, _ = run(replace(problem, devices=bigger), start)
    assert after.throughput >= before * (1 - 1e-4)


def middling(devices=6, members=8):
    """Too big to be proven at once."""
    generator = np.random.default_rng(5)
    listed = {
        f"m{m}": {batch: (10 * speed * batch**0.5, int(size + batch)) for batch in (1, 4, 16)}
        for m, (speed, size) in enumerate(
            zip(generator.uniform(1, 9, members), generator.integers(4, 20, members), strict=True)
        )
    }
    there = tuple(device(f"cuda:{d}", 60 + d) for d in range(devices))
    problem = Problem(tuple(listed), there, profiles(**listed))
    return problem, problem.cells_of(problem.matrix(_diagonal(problem)))


def _diagonal(problem):
    cells = problem.empty()
    for member in range(len(problem.members)):
        cells[member % len(problem.devices), member] = 1
    return cells


def test_a_gap_that_is_good_enough_ends_the_search():
    problem, start = middling()
    found, clock = run(problem, start, 20.0, gap=0.2, patience=20)
    assert not clock.limited
    assert found.gap <= 0.2
    again, _ = run(problem, start, 20.0, gap=0.2, patience=20)
    assert (again.cells == found.cells).all()
    assert again.throughput == found.throughput


def test_time_that_is_up_is_told_and_what_there_is_is_returned():
    problem, start = middling(12, 20)
    found, clock = run(problem, start, 0.0)
    assert clock.limited
    assert problem.faults(problem.matrix(found.cells)) == []
    assert found.throughput >= solve_throughput(problem, start)[0] * (1 - 1e-6)
    assert found.bound >= found.throughput


def test_what_is_given_is_never_lost():
    problem, start = middling()
    best, _ = run(problem, start, 1.0)
    found, _ = run(problem, best.cells, 0.0)
    assert found.throughput >= best.throughput * (1 - 1e-6)


def test_instances_that_do_nothing_go():
    devices = (device("cuda:0", 90), device("cuda:1", 90))
    problem = Problem(("a", "b"), devices, profiles(a={1: (10, 5)}, b={1: (10, 5)}))
    cells = np.ones((2, 2), np.int64)
    thin = fewest_instances(problem, SearchResult(cells, 10.0, 10.0), clock=Clock(5))
    assert np.count_nonzero(thin.cells) == 2
    assert thin.throughput == pytest.approx(10)


@FEW
@given(TINY, st.sampled_from([0.02, 0.2]))
def test_with_a_tolerance_it_takes_the_fewest_within_it(problem, tolerance):
    known = list(every_allocation(problem))
    if not known:
        return
    found, clock = run(problem, known[0][0])
    thin = fewest_instances(problem, found, clock=clock, tolerance=tolerance)
    assert problem.faults(problem.matrix(thin.cells)) == []
    assert thin.throughput >= (1 - tolerance) * found.throughput * (1 - 1e-6)
    enough = (1 - tolerance) * found.throughput * (1 + 1e-4)
    fewest = min(np.count_nonzero(cells) for cells, throughput in known if throughput >= enough)
    assert np.count_nonzero(thin.cells) <= fewest


@FEW
@given(st.lists(st.floats(-0.003, 0.003), min_size=3, max_size=3))
def test_with_a_tolerance_small_changes_of_the_profiles_change_nothing(changes):
    """Any of the three members may be the one that both devices share."""
    rates = {name: 100 * (1 + change) for name, change in zip("abc", changes, strict=True)}
    one = profiles(**{name: {1: (rate, 1)} for name, rate in rates.items()})
    problem = Problem(tuple("abc"), (device("cuda:0", 9), device("cuda:1", 9)), one)
    starts = problem.empty()
    starts[0] = 1
    found, clock = run(problem, starts)
    thin = fewest_instances(problem, found, clock=clock, tolerance=0.01)
    assert thin.cells.tolist() == [[1, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("throughput", "bound", "gap"), [(9, 10, 0.1), (10, 10, 0), (10, 9, 0), (5, math.inf, 1)]
)
def test_the_gap_is_a_share_of_the_bound(throughput, bound, gap):
    assert SearchResult(np.zeros((1, 1), np.int64), throughput, bound).gap == pytest.approx(gap)


def test_a_clock_tells_only_of_what_it_cut():
    clock = Clock(60)
    assert not clock.is_over()
    assert not clock.limited
    assert 0 < clock.left_s() <= 60
    clock = Clock(0)
    assert clock.left_s() == 0
    assert not clock.limited
    assert clock.is_over()
    assert clock.limited


def test_members_that_cost_no_memory_are_everywhere_where_it_helps():
    one = profiles(a={1: (10, 0)}, b={1: (5, 0)})
    problem = Problem(("a", "b"), (device("cuda:0", 0), device("cuda:1", 0)), Profiles(one))
    found, _ = run(problem, np.eye(2, dtype=np.int64))
    assert found.throughput == pytest.approx(2 / (1 / 10 + 1 / 5))


def test_thinning_keeps_the_throughput_where_the_solver_is_too_tolerant():
    """A rate a million times below the others is nothing to the solver, and all to the ensemble."""
    table = profiles(
        a={2: (3736.809, 9), 1: (0.00161782, 3)},
        b={2: (2856.111, 5)},
        c={4: (157.863, 3), 1: (0.00231116, 2)},
    )
    pool = [device(f"cuda:{i}", 14, pool="shared") for i in range(2)]
    problem = Problem(("a", "b", "c"), tuple(pool), table)
    start = np.array([[1, 0, 4], [1, 2, 0]])
    before = solve_throughput(problem, start)[0]
    tolerated = branch.fewest(problem, start, 0.999 * before, 5.0).cells
    assert tolerated is not None
    assert solve_throughput(problem, tolerated)[0] < 0.6 * before
    thinned = fewest_instances(problem, SearchResult(start, before, before), clock=Clock(5.0))
    assert thinned.throughput >= 0.999 * before
