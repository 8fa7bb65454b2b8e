from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.problem import Problem
from allocator.profiles import Profiles
from allocator.search.throughput import ThroughputModel, solve_throughput
from tests.allocator.test_problem import device, every_allocation, problems, profiles

SPEEDS = st.lists(st.floats(0.5, 500), min_size=1, max_size=6)


@given(SPEEDS)
def test_a_member_alone_is_as_fast_as_its_devices_together(speeds):
    batches = {index + 1: (speed, 0) for index, speed in enumerate(speeds)}
    devices = tuple(device(f"cuda:{index}", 0) for index in range(len(speeds)))
    problem = Problem(("a",), devices, profiles(a=batches))
    cells = np.arange(1, len(speeds) + 1).reshape(-1, 1)
    throughput, shares = solve_throughput(problem, cells)
    assert throughput == pytest.approx(sum(speeds))
    assert shares == pytest.approx(1)


@given(SPEEDS)
def test_members_of_one_device_share_its_time(speeds):
    members = {f"m{index}": {1: (speed, 0)} for index, speed in enumerate(speeds)}
    problem = Problem(tuple(members), (device("cuda:0", 0),), profiles(**members))
    throughput, shares = solve_throughput(problem, np.ones((1, len(speeds)), np.int64))
    assert throughput == pytest.approx(1 / sum(1 / speed for speed in speeds))
    assert shares[0] == pytest.approx([throughput / speed for speed in speeds])


def test_rows_cost_the_device_time_of_their_own():
    problem = Problem(("a",), (device("cpu:0", 0),), profiles(a={1: (50, 0)}), {"cpu:0": 0.02})
    throughput, shares = solve_throughput(problem, np.array([[1]]))
    assert throughput == pytest.approx(25)  # half of the time for predictions
    assert shares == pytest.approx(0.5)


def test_the_slowest_member_counts_and_the_others_leave_time():
    speeds = profiles(a={1: (10, 0)}, b={1: (30, 0)})
    problem = Problem(("a", "b"), (device("cuda:0", 0), device("cuda:1", 0)), speeds)
    throughput, _ = solve_throughput(problem, np.eye(2, dtype=np.int64))
    assert throughput == pytest.approx(10)
    # With a second instance of `a` in the time that `b` leaves: 10 + 10 (1 - T/30) = T.
    assert solve_throughput(problem, np.array([[1, 0], [1, 1]]))[0] == pytest.approx(15)


def test_a_member_that_few_rows_ask_for_needs_little_time():
    speeds = profiles(a={1: (10, 0)}, b={1: (40, 0)})
    problem = Problem(("a", "b"), (device("cuda:0", 0),), speeds, demand={"a": 0.25})
    throughput, shares = solve_throughput(problem, np.array([[1, 1]]))
    assert throughput == pytest.approx(20)  # a row takes 0.25 / 10 + 1 / 40 s
    assert shares == pytest.approx(0.5)


@settings(max_examples=15)
@given(problems())
def test_a_demand_is_as_if_the_member_took_so_much_longer(problem):
    demand = dict(zip(problem.members, problem.demands, strict=True))
    slower = Profiles(
        replace(one, latency_s=one.latency_s * demand[one.member]) for one in problem.profiles
    )
    plain = replace(problem, profiles=slower, demand={})
    for cells, throughput in list(every_allocation(problem))[-5:]:
        assert solve_throughput(plain, cells)[0] == pytest.approx(throughput, rel=1e-6)


def test_a_member_without_an_instance_makes_it_zero():
    problem = Problem(("a", "b"), (device("cuda:0", 0),), profiles(a={1: (1, 0)}, b={1: (1, 0)}))
    throughput, shares = solve_throughput(problem, np.array([[1, 0]]))
    assert throughput == 0
    assert not shares.any()


@settings(max_examples=15)
@given(problems(), st.randoms(use_true_random=False))
def test_a_warm_solver_tells_what_a_new_one_does(problem, random):
    known = [cells for cells, _ in every_allocation(problem)][:400]
    model = ThroughputModel(problem)
    for cells in random.sample(known, min(len(known), 8)):
        model.put_all(cells)
        throughput, _ = solve_throughput(problem, cells)
        assert model.rows_per_s() == pytest.approx(throughput, rel=1e-6)


@settings(max_examples=15)
@given(problems())
def test_shares_do_the_work_in_time_and_prices_explain_the_throughput(problem):
    for cells, _ in list(every_allocation(problem))[-3:]:
        model = ThroughputModel(problem)
        model.put_all(cells)
        throughput, shares = model.rows_per_s(), model.shares()
        members, devices = model.prices()
        assert (shares[cells == 0] == 0).all()
        for index in range(len(problem.devices)):
            own_s = problem.row_seconds(index) * throughput
            assert shares[index].sum() + own_s <= 1 + 1e-6
        for member in range(len(problem.members)):
            work = sum(
                shares[d, member] * problem.profile(d, member, int(batch)).rows_per_s
                for d, batch in enumerate(cells[:, member])
                if batch
            )
            assert work >= throughput * problem.demands[member] * (1 - 1e-6)
        own = sum(price * problem.row_seconds(d) for d, price in enumerate(devices))
        assert members @ problem.demands + own == pytest.approx(1, rel=1e-5)
        assert devices.sum() == pytest.approx(throughput, rel=1e-5)
