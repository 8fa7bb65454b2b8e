import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allocator.problem import Device, NoPlaceError, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.search import search
from allocator.search.variants import neighbours
from tests.allocator.test_problem import device, problems, profiles


def by_what(found):
    return {one.what: one.cells.tolist() for one in found}


def test_each_neighbour_differs_in_one_way():
    devices = (device("cuda:0", 100), device("cuda:1", 100))
    costs = profiles(a={1: (10, 5), 4: (30, 20), 8: (31, 40)}, b={2: (30, 10)})
    problem = Problem(("a", "b"), devices, costs)
    found = neighbours(problem, np.array([[4, 0], [0, 2]]))
    assert found[0].what == "the optimum"
    assert by_what(found) == {
        "the optimum": [[4, 2], [4, 2]],
        "spare memory left": [[4, 0], [0, 2]],
        "smaller batches on A": [[1, 2], [1, 2]],
        "larger batches on A": [[8, 2], [8, 2]],
    }  # what greedy finds, filled, is one of these
    bare = by_what(neighbours(problem, np.array([[4, 0], [0, 2]]), fill=False))
    assert bare["the optimum"] == [[4, 0], [0, 2]]
    assert bare["spare memory filled"] == [[4, 2], [4, 2]]
    assert bare["larger batches on A"] == [[8, 0], [0, 2]]


def test_a_step_concerns_one_kind_of_device():
    devices = (Device("cuda:0", "A", 40), Device("cuda:1", "B", 40))
    listed = [
        Profile("a", kind, batch, batch / (10 * batch**0.5), memory)
        for kind in "AB"
        for batch, memory in ((1, 5), (2, 10), (4, 40))
    ]
    problem = Problem(("a",), devices, Profiles(listed))
    found = by_what(neighbours(problem, np.array([[2], [2]])))
    assert found["smaller batches on A"] == [[1], [2]]
    assert found["larger batches on A"] == [[4], [2]]
    assert found["smaller batches on B"] == [[2], [1]]
    assert found["larger batches on B"] == [[2], [4]]
    assert len(neighbours(problem, np.array([[2], [2]]), most=3)) == 3


def test_a_step_that_does_not_fit_is_left_out():
    problem = Problem(
        ("a", "b"), (device("cuda:0", 30),), profiles(a={1: (10, 5), 2: (20, 25)}, b={1: (9, 10)})
    )
    assert list(by_what(neighbours(problem, np.array([[1, 1]])))) == ["the optimum"]


@settings(max_examples=30)
@given(problems(batches=(1, 2, 8)), st.booleans(), st.integers(1, 8))
def test_neighbours_are_distinct_feasible_and_repeatable(problem, fill, most):
    try:
        optimum = problem.cells_of(search(problem, time_limit_s=5.0).matrix)
    except NoPlaceError:
        assume(False)
    before = optimum.copy()
    found = neighbours(problem, optimum, fill=fill, most=most)
    assert (optimum == before).all()
    assert 1 <= len(found) <= most
    assert len({problem.matrix(one.cells) for one in found}) == len(found)
    assert all(problem.faults(problem.matrix(one.cells)) == [] for one in found)
    assert by_what(found) == by_what(neighbours(problem, optimum, fill=fill, most=most))
