import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.problem import Device, NoPlaceError, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.greedy import worst_fit
from allocator.search.search import SOLVERS, search, upper_bound_rows_s
from allocator.search.throughput import solve_throughput
from tests.allocator.test_problem import device, every_allocation, problems, profiles

FEW = settings(max_examples=15)
KIB, GIB = 1 << 10, 1 << 30


def check(problem, found):
    """Hold what is true of every answer."""
    assert problem.faults(found.matrix) == []
    throughput = solve_throughput(problem, problem.cells_of(found.matrix))[0]
    assert found.throughput_rows_s == pytest.approx(throughput, rel=1e-6)
    if found.bound_rows_s is not None:
        assert found.bound_rows_s >= found.throughput_rows_s * (1 - 1e-9)
        assert 0 <= found.gap < 1


@FEW
@given(problems(), st.sampled_from(SOLVERS))
def test_every_solver_finds_a_feasible_place_if_there_is_one(problem, solver):
    best = max((throughput for _, throughput in every_allocation(problem)), default=0.0)
    if not best:
        with pytest.raises(NoPlaceError) as raised:
            search(problem, solver=solver, time_limit_s=5.0)
        assert raised.value.member in problem.members
        assert raised.value.shortfall_bytes > 0 or raised.value.needed_bytes is None
        return
    found = search(problem, solver=solver, time_limit_s=5.0)
    check(problem, found)
    assert not found.time_limited
    assert best * (1 - 1e-6) <= found.bound_rows_s
    for baseline in found.baselines.values():
        assert baseline is None or baseline <= best * (1 + 1e-6)
    if solver == "exact":
        assert found.throughput_rows_s >= 0.9989 * best
    if solver == "auto":
        assert found.throughput_rows_s >= 0.9889 * best


@FEW
@given(problems(most_devices=6, most_members=7, batches=(1, 2, 8)), st.sampled_from(SOLVERS))
def test_every_solver_is_feasible_in_little_time(problem, solver):
    try:
        found = search(problem, solver=solver, time_limit_s=0.1)
    except NoPlaceError:
        return
    check(problem, found)


@FEW
@given(problems(batches=(1, 2, 8)), st.sampled_from(SOLVERS), st.integers(0, 5))
def test_a_seed_tells_the_same_again(problem, solver, seed):
    try:
        first, second = (search(problem, solver=solver, seed=seed) for _ in range(2))
    except NoPlaceError:
        return
    assert not first.time_limited
    assert not second.time_limited
    assert first.matrix == second.matrix
    assert first.throughput_rows_s == second.throughput_rows_s
    assert first.baselines == second.baselines


def random_problem(members, devices, gib, seed=0):
    generator = np.random.default_rng(seed)
    listed = []
    for member in range(members):
        per_row, fixed = generator.lognormal(-4.5, 0.8), generator.lognormal(-4.5, 0.5)
        weights, rows = generator.uniform(0.1, 1.5) * GIB, generator.uniform(0.02, 0.15) * GIB
        for batch in (1, 4, 16, 64):
            latency_s, size = fixed + per_row * batch, int(weights + rows * batch)
            listed.append(Profile(f"m{member}", "A", batch, latency_s, size))
    there = tuple(device(f"cuda:{index}", int(gib * GIB)) for index in range(devices))
    return Problem(tuple(f"m{member}" for member in range(members)), there, Profiles(listed))


@pytest.mark.slow
def test_auto_ends_early_and_tells_the_same_again():
    problem = random_problem(6, 4, 6)
    first, second = (search(problem, time_limit_s=60.0) for _ in range(2))
    check(problem, first)
    assert not first.time_limited
    assert first.gap <= 0.011
    assert first.matrix == second.matrix
    assert first.baselines == second.baselines
    assert first.throughput_rows_s > first.baselines["greedy"] >= first.baselines["worst_fit"]
    assert first.baselines["batch_only"] >= first.baselines["worst_fit"]


def test_a_search_that_was_cut_short_says_so():
    problem = random_problem(20, 20, 4)
    found = search(problem, solver="exact", time_limit_s=0.3)
    check(problem, found)
    assert found.time_limited
    assert found.elapsed_s < 3  # the time limit, and what a busy machine adds


def test_solvers_are_called_what_they_are():
    problem = random_problem(3, 2, 16)
    names = {solver: search(problem, solver=solver).solver for solver in SOLVERS}
    assert names == {
        "auto": "exact",
        "worst-fit": "worst-fit",
        "greedy": "greedy",
        "exact": "exact",
    }
    worst = search(problem, solver="worst-fit")
    assert worst.matrix == problem.matrix(worst_fit(problem))
    assert worst.baselines["worst_fit"] == worst.throughput_rows_s


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_place_that_worst_fit_does_not_see_is_found(solver):
    # Biggest first to the emptiest: 6 to the first, 5 to the second, 4 and 4 no longer fit both
    # beside them, though 6 + 4 and 5 + 4 would.
    one = profiles(a={1: (9, 6)}, b={1: (9, 5)}, c={1: (9, 5)}, d={1: (9, 4)}, e={1: (9, 4)})
    problem = Problem(tuple("abcde"), (device("cuda:0", 14), device("cuda:1", 10)), one)
    with pytest.raises(NoPlaceError):
        worst_fit(problem)
    found = search(problem, solver=solver)
    check(problem, found)
    assert found.baselines["worst_fit"] is None


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_place_names_the_member_and_what_is_missing(solver):
    one = profiles(a={1: (9, 6 * GIB)}, b={1: (9, 5 * GIB)})
    problem = Problem(("a", "b"), (device("cuda:0", 10 * GIB),), one)
    with pytest.raises(NoPlaceError) as raised:
        search(problem, solver=solver)
    assert str(raised.value) == (
        "member 'b' needs 5.0 GiB at batch size 1, short of 1.0 GiB; "
        "there is left: 4.0 GiB on cuda:0"
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_kilobyte_too_much_has_no_place(solver):
    half = 40 * GIB + KIB
    one = profiles(a={1: (9, half)}, b={1: (9, half)})
    problem = Problem(("a", "b"), (device("cuda:0", 80 * GIB),), one)
    with pytest.raises(NoPlaceError, match=r"short of 2\.0 KiB"):
        search(problem, solver=solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_member_without_a_profile_is_named(solver):
    problem = Problem(("a", "b"), (device("cuda:0", 10),), profiles(a={1: (9, 6)}))
    with pytest.raises(NoPlaceError, match="^member 'b' has no profile for any of the devices$"):
        search(problem, solver=solver)


def test_cpu_groups_share_the_memory_and_pay_for_every_row():
    listed = [
        Profile(member, "cpu-1", batch, 0.01 * batch**0.7, size + batch)
        for member, size in (("a", 10), ("b", 20), ("c", 30))
        for batch in (1, 8)
    ]
    devices = tuple(Device(f"cpu:{n}", "cpu-1", 120, (n,), pool="ram") for n in range(3))
    free = search(Problem(("a", "b", "c"), devices, Profiles(listed)), solver="exact")
    charged = Problem(("a", "b", "c"), devices, Profiles(listed), {"cpu:0": 0.002})
    found = search(charged, solver="exact")
    check(charged, found)
    assert found.throughput_rows_s < free.throughput_rows_s
    assert not math.isnan(found.gap)


def test_members_that_run_on_one_kind_only_go_there():
    listed = [Profile("a", "A", 1, 0.1, 5), Profile("b", "B", 1, 0.1, 5)]
    devices = (device("cuda:0", 10, "A"), device("cuda:1", 10, "B"))
    found = search(Problem(("a", "b"), devices, Profiles(listed)))
    assert found.matrix.cells == ((1, 0), (0, 1))
    assert found.gap == 0


@FEW
@given(problems())
def test_the_upper_bound_is_one_and_0_only_where_there_is_no_place(problem):
    best = max((throughput for _, throughput in every_allocation(problem)), default=0.0)
    assert upper_bound_rows_s(problem) >= best * (1 - 1e-6)
    assert upper_bound_rows_s(problem, time_limit_s=0.0) >= best * (1 - 1e-6)
    if not all(any(problem.options(d, m) for d in range(len(problem.devices)))
               for m in range(len(problem.members))):  # fmt: skip
        assert upper_bound_rows_s(problem) == 0.0
