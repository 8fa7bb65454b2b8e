import msgspec
import pytest

from allocator.matrix import AllocationMatrix
from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.throughput import solve_throughput
from server.following.search import Found, SearchTask, find_better, search_in_child


def problem(memory=10, **demand):
    """Two devices with space for two instances each; `b` takes twice as long as `a`, `c` too."""
    seconds = {"a": 0.01, "b": 0.02, "c": 0.02}
    devices = tuple(Device(f"cuda:{index}", "A", memory) for index in range(2))
    profiles = Profiles(Profile(name, "A", 1, s, 5) for name, s in seconds.items())
    return Problem(("a", "b", "c"), devices, profiles, {"cuda:0": 0.001}, demand)


def task(one, *cells, names=("cuda:0", "cuda:1"), parts=(), **changes):
    matrix = AllocationMatrix(("a", "b", "c"), names, cells)
    options = {"time_limit_s": 2.0, "tolerance": 0.0, "fill": False} | changes
    return SearchTask.of(one, matrix, parts=parts, **options)


def test_the_best_allocation_for_the_demand_is_found():
    one = problem(a=0.01, b=0.01, c=1.0)
    found = find_better(task(one, (1, 1, 0), (0, 0, 1)))
    best = max(found.candidates, key=lambda candidate: candidate.rows_s)
    matrix = AllocationMatrix.from_json(best.matrix)
    assert [row[2] for row in matrix.cells] == [1, 1]
    assert best.rows_s == pytest.approx(solve_throughput(one, one.cells_of(matrix))[0])
    assert best.rows_s > 1.5 * found.present.rows_s
    assert best.rows_s <= found.bound_rows_s * (1 + 1e-6)
    # What is new, as opposed to the present allocation.
    present = {("cuda:0", "a"), ("cuda:0", "b"), ("cuda:1", "c")}
    new = [device for device, member, _ in matrix.instances() if (device, member) not in present]
    assert best.new == {device: new.count(device) for device in new}


def test_parts_of_the_window_are_judged_by_themselves():
    parts = {"a": 1.0, "b": 0.01, "c": 0.01}, {"a": 0.01, "b": 0.01, "c": 1.0}
    one = task(problem(a=0.5, b=0.01, c=0.5), (1, 1, 0), (0, 0, 1), parts=parts)
    former, latter = find_better(one).present.parts_rows_s
    assert former == pytest.approx(1 / 0.0112, rel=0.01)
    assert latter == pytest.approx(50, rel=0.01)


def test_without_a_device_that_had_the_only_instance_nothing_is_served_at_present():
    one = problem()
    left = Problem(one.members, one.devices[:1], one.profiles)
    assert find_better(task(left, (1, 1, 0), (0, 0, 1))).error.startswith("member 'c' needs")
    roomy = problem(memory=20)
    left = Problem(one.members, roomy.devices[:1], one.profiles)
    found = find_better(task(left, (1, 1, 0), (0, 0, 1)))
    assert found.present.rows_s == 0
    (candidate,) = found.candidates
    assert AllocationMatrix.from_json(candidate.matrix).devices == ("cuda:0",)


def test_batches_that_were_never_profiled_count_as_the_next_smaller_ones():
    assert find_better(task(problem(), (7, 3, 0), (0, 0, 9))).present.rows_s > 0


def test_tasks_go_through_json():
    one = task(problem(a=0.5, b=1.0, c=1.0), (1, 1, 0), (0, 0, 1))
    assert msgspec.json.decode(msgspec.json.encode(one), type=SearchTask) == one


@pytest.mark.process
def test_a_child_searches():
    one = task(problem(a=0.01, b=0.01, c=1.0), (1, 1, 0), (0, 0, 1))
    assert search_in_child(one) == find_better(one)
    broken = msgspec.structs.replace(one, members=())
    assert isinstance(found := search_in_child(broken), Found)
    assert "the process that searched exited" in found.error
