import numpy as np
import pytest
from hypothesis import given, settings

from allocator.problem import Problem
from allocator.search.rebuild import Rebuilder
from allocator.search.throughput import solve_throughput
from tests.allocator.test_problem import device, problems, profiles

FEW = settings(max_examples=40)
WIDE = problems(most_devices=5, most_members=5, batches=(1, 2, 8))


@FEW
@given(WIDE)
def test_what_is_built_is_feasible_and_as_fast_as_said(problem):
    built = Rebuilder(problem, seed=0).build()
    cells, throughput = built.cells, built.throughput
    assert (problem.used_bytes(cells) <= problem.capacity_bytes).all() or not throughput
    if throughput:
        assert problem.faults(problem.matrix(cells)) == []
        assert throughput == pytest.approx(solve_throughput(problem, cells)[0], rel=1e-6)


@FEW
@given(WIDE)
def test_improvements_are_feasible_not_much_slower_and_repeatable(problem):
    def run():
        rebuilder = Rebuilder(problem, seed=3)
        built = rebuilder.build()
        for tolerance in (0.0, 0.1, 0.0) if built.throughput else ():
            before = built
            built = rebuilder.improve(built, tolerance)
            assert built.score >= before.score * (1 - tolerance - 1e-6)
            assert problem.faults(problem.matrix(built.cells)) == []
            throughput, _ = solve_throughput(problem, built.cells)
            assert built.throughput == pytest.approx(throughput, rel=1e-6)
        return built.cells

    assert (run() == run()).all()


def test_where_all_fits_the_first_build_is_the_best():
    devices = tuple(device(f"cuda:{index}", 100) for index in range(4))
    problem = Problem(("a", "b"), devices, profiles(a={1: (1, 5), 8: (10, 9)}, b={1: (30, 5)}))
    built = Rebuilder(problem, seed=0).build()
    cells, throughput = built.cells, built.throughput
    assert throughput == pytest.approx(4 / (1 / 10 + 1 / 30))
    assert set(cells[:, 0]) <= {0, 8}


def test_a_crowded_device_gets_smaller_batches_or_fewer_members():
    problem = Problem(
        ("a", "b"),
        (device("cuda:0", 10),),
        profiles(a={1: (10, 4), 8: (40, 8)}, b={1: (10, 4), 8: (11, 6)}),
    )
    built = Rebuilder(problem, seed=0).build()
    cells, throughput = built.cells, built.throughput
    assert cells.tolist() == [[1, 8]]
    assert throughput == pytest.approx(1 / (1 / 10 + 1 / 11))


def test_a_member_too_many_is_said_by_a_throughput_of_zero():
    devices = (device("cuda:0", 10),)
    problem = Problem(("a", "b"), devices, profiles(a={1: (1, 6)}, b={1: (1, 6)}))
    assert Rebuilder(problem, seed=0).build().throughput == 0


def test_a_rebuild_finds_what_a_cell_at_a_time_does_not():
    # Exchanging both members helps, moving either does not fit.
    problem = Problem(
        ("a", "b"),
        (device("cuda:0", 10), device("cuda:1", 10, "B")),
        profiles(a={1: (10, 10)}, b={1: (1, 10)}),
    )
    listed = [*problem.profiles, *_on_b(a=1, b=10)]
    problem = Problem(problem.members, problem.devices, type(problem.profiles)(listed))
    rebuilder = Rebuilder(problem, seed=1)
    built = rebuilder.judge(np.array([[0, 1], [1, 0]]))
    assert built.throughput == pytest.approx(1)
    for _ in range(20):
        built = rebuilder.improve(built, 0.0)
    assert built.throughput == pytest.approx(10)
    assert built.cells.tolist() == [[1, 0], [0, 1]]


def _on_b(**speeds):
    for one in profiles(**{member: {1: (speed, 10)} for member, speed in speeds.items()}):
        yield type(one)(one.member, "B", one.batch, one.latency_s, one.memory_bytes)
