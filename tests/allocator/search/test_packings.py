import itertools

import numpy as np
from hypothesis import given, settings

from allocator.problem import Problem
from allocator.search.packings import list_packings
from tests.allocator.test_problem import device, problems, profiles


def every_packing(problem, at):
    """By brute force: what the device can hold so that nothing can be added or raised."""
    members = range(len(problem.members))
    options = [[0, *(one.memory_bytes for one in problem.efficient(at, m))] for m in members]
    capacity = problem.devices[at].memory_bytes

    def fits(levels):
        return sum(options[m][level] for m, level in enumerate(levels)) <= capacity

    def raised(levels):
        for m, level in enumerate(levels):
            if level + 1 < len(options[m]):
                yield (*levels[:m], level + 1, *levels[m + 1 :])

    for levels in itertools.product(*(range(len(own)) for own in options)):
        if fits(levels) and not any(map(fits, raised(levels))):
            yield levels


@settings(max_examples=30)
@given(problems())
def test_every_way_to_fill_a_device_is_listed_once(problem):
    found = list_packings(problem)
    if any(len(domain.devices) > 1 for domain in problem.memory_domains):
        assert found is None
        return
    assert sorted(itertools.chain(*found.alike)) == list(range(len(problem.devices)))
    for index, devices in enumerate(found.alike):
        listed = [tuple(row) for row in found.levels[found.classes == index].tolist()]
        assert len(set(listed)) == len(listed)
        for at in devices:
            assert set(listed) == set(every_packing(problem, at))
            assert problem.row_seconds(at) == found.row_seconds[index]


def test_too_many_are_none():
    members = {f"m{m}": {2**b: (10 + b, 3 + b) for b in range(6)} for m in range(12)}
    tight, ample = (
        Problem(tuple(members), (device("cuda:0", memory),), profiles(**members))
        for memory in (12, 60)
    )
    assert len(list_packings(tight).classes) > 100
    assert list_packings(ample) is None
    assert list_packings(tight, most=100) is None


def test_many_on_a_device_are_none():
    members = {f"m{m}": {1: (10, 1)} for m in range(6)}
    problem = Problem(tuple(members), (device("cuda:0", 9),), profiles(**members))
    assert list_packings(problem) is None


def test_where_everything_fits_there_is_one_packing():
    members = {f"m{m}": {2**b: (10 + b, 3 + b) for b in range(6)} for m in range(5)}
    problem = Problem(tuple(members), (device("cuda:0", 40),), profiles(**members))
    assert (list_packings(problem).levels == 6).all()


def test_cells_are_those_of_packings_on_devices_of_their_class():
    devices = (device("cuda:0", 9), device("cuda:1", 4), device("cuda:2", 9))
    problem = Problem(("a", "b"), devices, profiles(a={1: (10, 4), 8: (40, 9)}, b={2: (10, 4)}))
    found = list_packings(problem)
    assert found.members.tolist() == [[0, -1], [0, 1], [0, -1], [1, -1]]
    assert found.speeds.tolist() == [[40, 1], [10, 10], [10, 1], [10, 1]]
    assert found.fastest.tolist() == [40, 10]
    cells = found.cells(np.array([0, 1, 3]), np.array([1.0, 1.0, 1.0]))
    assert cells.tolist() == [[8, 0], [0, 2], [1, 2]]
