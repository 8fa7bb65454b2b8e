import numpy as np
import pytest
from hypothesis import given, settings

from allocator.problem import Problem
from allocator.search import branch
from tests.allocator.test_problem import device, every_allocation, problems, profiles

FEW = settings(max_examples=15)
TINY = problems(most_devices=2, most_members=2)


@FEW
@given(TINY)
def test_the_fastest_is_that_of_brute_force(problem):
    known = list(every_allocation(problem))
    if not known:
        return
    start, best = known[0][0], max(throughput for _, throughput in known)
    result = branch.fastest(problem, start, 5.0)
    assert result.finished
    assert result.bound >= best * (1 - 1e-6)
    reached = next(it for cells, it in known if (cells == result.cells).all())
    assert reached == pytest.approx(best, rel=1e-4)


@FEW
@given(TINY)
def test_the_fewest_are_those_of_brute_force(problem):
    known = list(every_allocation(problem))
    if not known:
        return
    start, best = max(known, key=lambda it: it[1])
    result = branch.fewest(problem, start, 0.6 * best, 5.0)
    least = min(np.count_nonzero(cells) for cells, it in known if it >= 0.6 * best * (1 - 1e-9))
    assert result.finished
    assert np.count_nonzero(result.cells) == least


@FEW
@given(problems(row_s=False))
def test_a_place_is_found_if_there_is_one(problem):
    result = branch.some_place(problem, 5.0)
    assert result.finished
    assert (result.cells is None) == (next(every_allocation(problem), None) is None)
    if result.cells is not None:
        assert problem.faults(problem.matrix(result.cells)) == []


def test_a_kilobyte_too_much_is_too_much():
    # The solver's own tolerance is a millionth of the memory: 80 KiB here.
    half = (40 << 30) + 512
    problem = Problem(
        ("a", "b"), (device("cuda:0", 80 << 30),), profiles(a={1: (10, half)}, b={1: (10, half)})
    )
    assert branch.some_place(problem, 5.0).cells is None


def test_a_bigger_batch_that_overflows_by_a_kilobyte_is_not_taken():
    half = 40 << 30
    problem = Problem(
        ("a", "b"),
        (device("cuda:0", 80 << 30),),
        profiles(a={1: (10, half), 8: (40, half + 1024)}, b={1: (10, half)}),
    )
    result = branch.fastest(problem, np.array([[1, 1]]), 5.0)
    assert result.cells is None or result.cells.tolist() == [[1, 1]]


def test_without_time_there_is_no_answer_that_says_it_is_final():
    devices = tuple(device(f"cuda:{d}", 31 + d) for d in range(8))
    members = {f"m{m}": {1: (5 + m, 8 + m), 8: (20 - m, 11 + 2 * m)} for m in range(8)}
    problem = Problem(tuple(members), devices, profiles(**members))
    start = np.eye(8, dtype=np.int64)
    assert not branch.fastest(problem, start, 0.0).finished


def test_binaries_count_the_efficient_instances():
    problem = Problem(
        ("a", "b"),
        (device("cuda:0", 10), device("cuda:1", 5)),
        profiles(a={1: (10, 4), 2: (9, 5), 8: (40, 8)}, b={1: (10, 4)}),
    )
    assert branch.binaries(problem) == 3 + 2
