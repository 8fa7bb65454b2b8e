import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.problem import Problem
from allocator.search.throughput import solve_throughput
from allocator.simulation import (
    ClosedLoop,
    ConstantRate,
    EnsembleShare,
    LaterStage,
    Loss,
    Poisson,
    Trace,
    mix_demand,
)
from tests.allocator.simulation.pools import Pool

THREE = {name: {"g": {1: 0.01}} for name in "abc"}
TWO = {"a": {"g": {1: 0.01, 8: 0.04}}, "b": {"g": {1: 0.02, 8: 0.06}}}


@st.composite
def pools(draw):
    """Members on devices of two kinds, a member with an instance at least."""
    members = draw(st.integers(1, 4))
    devices = draw(st.integers(1, 3))
    seconds = st.sampled_from([0.0002, 0.003, 0.01, 0.05])
    latency_s = {
        f"m{i}": {kind: {1: (t := draw(seconds)), 8: t * draw(st.integers(1, 6))} for kind in "gh"}
        for i in range(members)
    }
    cells = {
        f"cuda:{d}": {f"m{i}": draw(st.sampled_from([0, 1, 8])) for i in range(members)}
        for d in range(devices)
    }
    for i in range(members):
        if not any(row[f"m{i}"] for row in cells.values()):
            cells["cuda:0"][f"m{i}"] = 8
    return Pool(latency_s, {name: draw(st.sampled_from("gh")) for name in cells}, cells)


@st.composite
def traces(draw):
    gaps = draw(st.lists(st.sampled_from([0.0, 0.001, 0.02]), min_size=1, max_size=40))
    now, requests = 0.0, []
    for gap in gaps:
        now += gap
        requests.append((now, draw(st.integers(1, 20))))
    return Trace(tuple(requests))


def predicted(figures):
    """Rows by member."""
    rows = {}
    for one in figures.instances:
        rows[one.member] = rows.get(one.member, 0) + one.rows
    return rows


@settings(max_examples=150, deadline=None)
@given(pools(), traces(), st.sampled_from([None, 1, 7, 64]), st.sampled_from([0.0, 0.3]))
def test_every_row_is_predicted_once_by_every_member(pool, trace, arena_rows, noise):
    figures = pool.simulate(trace, warm_up=0, arena_rows=arena_rows, noise=noise)
    rows = sum(rows for _, rows in trace.requests)
    assert figures.unanswered == figures.refused == 0
    assert figures.answered == len(trace.requests)
    assert predicted(figures) == dict.fromkeys(pool.matrix.members, rows)
    assert figures.throughput_rows_s == pytest.approx(rows / figures.simulated_s)
    assert all(0 <= share <= 1 + 1e-9 for share in figures.utilisation.values())


@settings(max_examples=150, deadline=None)
@given(
    pools(),
    traces(),
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 0.3), st.sampled_from([0.001, 0.1])), max_size=6
    ),
)
def test_a_lost_device_loses_no_request(pool, trace, losses):
    names = pool.matrix.devices
    figures = pool.simulate(
        trace,
        warm_up=0,
        losses=[Loss(names[i % len(names)], at, back) for i, at, back in losses],
    )
    rows = sum(rows for _, rows in trace.requests)
    assert figures.answered == len(trace.requests)
    assert predicted(figures) == dict.fromkeys(pool.matrix.members, rows)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(pools(), st.integers(0, 3))
def test_the_same_seed_gives_the_same_figures(pool, seed):
    def run(seed):
        return pool.simulate(Poisson(50, rows=2), requests=80, seed=seed, noise=0.2)

    assert run(seed) == run(seed)
    assert run(seed) != run(seed + 1)


@settings(max_examples=50, deadline=None)
@given(pools(), st.integers(1, 40))
def test_closed_loops_lose_nothing_either(pool, connections):
    figures = pool.simulate(ClosedLoop(connections), requests=100, warm_up=0)
    assert figures.answered >= 100
    assert figures.unanswered == connections
    assert all(0 <= share <= 1 + 1e-9 for share in figures.utilisation.values())


@pytest.mark.parametrize(("connections", "batch"), [(1, 1), (5, 1), (16, 8)])
def test_one_member_on_one_device_has_the_known_rate(one_device, connections, batch):
    figures = one_device(0.02, batch).simulate(ClosedLoop(connections), requests=800)
    assert figures.throughput_rows_s == pytest.approx(batch / 0.02)
    assert figures.latency.mean_s == pytest.approx(connections * 0.02 / batch)  # Little's law
    assert figures.utilisation == {"cuda:0": pytest.approx(1.0)}


def test_thinking_clients_come_less_often(one_device):
    figures = one_device(0.02).simulate(ClosedLoop(1, think_s=0.03), requests=100)
    assert figures.requests_s == pytest.approx(1 / 0.05)
    assert figures.utilisation["cuda:0"] == pytest.approx(0.4)


def test_members_that_share_a_device_reach_the_optimum_of_time_sharing():
    shared = Pool(TWO, {"cuda:0": "g"}, {"cuda:0": {"a": 8, "b": 8}})
    figures = shared.simulate(ClosedLoop(64), requests=4000)
    assert figures.throughput_rows_s == pytest.approx(8 / (0.04 + 0.06), rel=0.02)
    assert figures.utilisation["cuda:0"] == pytest.approx(1.0)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 10), min_size=1, max_size=4),
    st.lists(st.integers(1, 15), min_size=1, max_size=3),
)
def test_saturation_reaches_the_linear_program_s_throughput(milliseconds, holdings):
    """On devices of one kind; each holds the members of its bit mask, and the first holds all."""
    names = [f"m{i}" for i in range(len(milliseconds))]
    pool = Pool(
        {name: {"g": {8: ms / 1e3}} for name, ms in zip(names, milliseconds, strict=True)},
        {f"cuda:{d}": "g" for d in range(len(holdings) + 1)},
        {
            f"cuda:{d}": {name: 8 for i, name in enumerate(names) if mask >> i & 1}
            for d, mask in enumerate([15, *holdings])
        },
    )
    problem = Problem(pool.matrix.members, tuple(pool.devices), pool.profiles)
    optimum, _ = solve_throughput(problem, problem.cells_of(pool.matrix))
    figures = pool.simulate(ClosedLoop(400), requests=12_000)
    assert 0.85 * optimum <= figures.throughput_rows_s <= 1.05 * optimum


def of_the_optimum(pool, connections):
    """The throughput at saturation, as a share of the linear program's."""
    problem = Problem(pool.matrix.members, tuple(pool.devices), pool.profiles)
    optimum, _ = solve_throughput(problem, problem.cells_of(pool.matrix))
    figures = pool.simulate(ClosedLoop(connections), requests=20 * connections)
    return figures.throughput_rows_s / optimum


@pytest.mark.parametrize("ratio", [2, 3, 4, 10])
def test_a_much_slower_device_contributes_at_saturation(ratio):
    pool = Pool(
        {"a": {"fast": {8: 0.01}, "slow": {8: 0.01 * ratio}}},
        {"cuda:0": "fast", "cuda:1": "slow"},
        {"cuda:0": {"a": 8}, "cuda:1": {"a": 8}},
    )
    assert of_the_optimum(pool, 256) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("small", "large"), [(0.01, 0.025), (0.01, 0.039), (0.004, 0.040)])
def test_batches_of_several_sizes_reach_the_optimum(small, large):
    pool = Pool(
        {name: {"g": {8: small}, "h": {32: large}} for name in "ab"},
        {"cuda:0": "g", "cuda:1": "h"},
        {"cuda:0": dict.fromkeys("ab", 8), "cuda:1": dict.fromkeys("ab", 32)},
    )
    assert of_the_optimum(pool, 512) == pytest.approx(1, abs=0.03)


@st.composite
def mixed_pools(draw, *, batches, affinities):
    """All members on all devices, whose kinds differ in speed by up to ten."""
    speeds = draw(st.lists(st.sampled_from([1, 1.5, 2, 3, 5, 10]), min_size=2, max_size=4))
    names = [f"m{i}" for i in range(draw(st.integers(1, 4)))]
    latency_s, cells = {}, {f"cuda:{d}": {} for d in range(len(speeds))}
    for name in names:
        row_s = draw(st.sampled_from([0.0002, 0.0005, 0.001, 0.003]))
        fixed_s = row_s * draw(st.sampled_from([0, 4, 16]))
        latency_s[name] = {}
        for d, speed in enumerate(speeds):
            slower = speed * draw(st.sampled_from(affinities))
            latency_s[name][f"k{d}"] = {b: slower * (fixed_s + b * row_s) for b in (8, 32)}
            cells[f"cuda:{d}"][name] = draw(st.sampled_from(batches))
    return Pool(latency_s, {f"cuda:{d}": f"k{d}" for d in range(len(speeds))}, cells)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(mixed_pools(batches=[8], affinities=[1]))
def test_devices_of_mixed_kinds_reach_the_optimum(pool):
    assert 0.95 <= of_the_optimum(pool, 600) <= 1.05


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(mixed_pools(batches=[8, 32], affinities=[1]))
def test_devices_of_mixed_kinds_with_mixed_batches_reach_the_optimum(pool):
    assert 0.9 <= of_the_optimum(pool, 1000) <= 1.05


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(mixed_pools(batches=[8, 32], affinities=[1, 2, 4]))
def test_devices_that_suit_some_members_better_come_close_to_the_optimum(pool):
    assert 0.8 <= of_the_optimum(pool, 1000) <= 1.05


def test_devices_share_rows_by_their_speed():
    mixed = Pool(
        {"a": {"fast": {8: 0.01}, "slow": {8: 0.02}}},
        {"cuda:0": "fast", "cuda:1": "slow"},
        {"cuda:0": {"a": 8}, "cuda:1": {"a": 8}},
    )
    figures = mixed.simulate(ClosedLoop(128), requests=20_000)
    fast, slow = figures.instances
    assert fast.rows / slow.rows == pytest.approx(2, rel=0.05)
    assert figures.throughput_rows_s == pytest.approx(8 / 0.01 + 8 / 0.02, rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
def test_waiting_is_that_of_an_m_d_1_queue(one_device, load):
    service_s = 0.01
    figures = one_device(service_s).simulate(Poisson(load / service_s), requests=60_000, seed=3)
    waiting_s = load * service_s / (2 * (1 - load))
    assert figures.latency.mean_s == pytest.approx(service_s + waiting_s, rel=0.05)
    assert figures.utilisation["cuda:0"] == pytest.approx(load, rel=0.02)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10), st.integers(1, 6)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 16),
)
def test_more_connections_never_cost_throughput(costs, devices, connections):
    """Where all devices are alike, that is; else the server's policy may lose a little by it."""
    names = [f"m{i}" for i in range(len(costs))]
    pool = Pool(
        {
            name: {"g": {1: ms / 1e3, 8: ms * slope / 1e3}}
            for name, (ms, slope) in zip(names, costs, strict=True)
        },
        {f"cuda:{d}": "g" for d in range(devices)},
        {f"cuda:{d}": dict.fromkeys(names, 8) for d in range(devices)},
    )
    few, many = (
        pool.simulate(ClosedLoop(n), requests=800).throughput_rows_s
        for n in (connections, 4 * connections)
    )
    assert many >= 0.95 * few


def test_more_connections_fill_batches(one_device):
    pool = one_device(0.02, 8)
    rates = [
        pool.simulate(ClosedLoop(n), requests=2000).throughput_rows_s for n in (1, 2, 8, 16, 64)
    ]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(400)


def test_an_even_rate_meets_an_idle_device(one_device):
    figures = one_device(0.005).simulate(ConstantRate(100), requests=200)
    assert figures.latency.mean_s == pytest.approx(0.005)
    assert figures.latency.max_s == pytest.approx(0.005)
    assert figures.utilisation["cuda:0"] == pytest.approx(0.5, rel=0.01)


def test_late_answers_are_counted_and_goodput_is_the_rest(one_device):
    # Eight at once, 10 ms each, one after the other: three of them within 35 ms.
    figures = one_device(0.01).simulate(Trace(((0.0, 1),) * 8), warm_up=0, deadline_s=0.035)
    assert figures.late_share == 5 / 8
    assert figures.throughput_rows_s == pytest.approx(100)
    assert figures.goodput_rows_s == pytest.approx(3 / 0.08)


def test_a_full_admission_queue_refuses(one_device):
    trace = Trace(((0.0, 1),) * 10)
    figures = one_device(0.01).simulate(trace, warm_up=0, arena_rows=2, max_waiting=3)
    assert (figures.answered, figures.refused) == (5, 5)


def test_a_request_bigger_than_the_arena_goes_through_in_pieces(one_device):
    figures = one_device(0.01, 8).simulate(
        Trace(((0.0, 20), (0.0, 1))), warm_up=0, arena_rows=4, max_waiting=2
    )
    assert (figures.answered, figures.refused) == (2, 0)


def test_refused_clients_come_again(one_device):
    figures = one_device(0.01).simulate(
        ClosedLoop(8, retry_s=0.5), seconds=20, arena_rows=1, max_waiting=0
    )
    assert figures.refused > 0
    assert figures.requests_s == pytest.approx(100, rel=0.01)


def test_a_member_whose_device_is_gone_waits():
    apart = Pool(TWO, {"cuda:0": "g", "cuda:1": "g"}, {"cuda:0": {"a": 8}, "cuda:1": {"b": 8}})
    figures = apart.simulate(
        ClosedLoop(8), seconds=10, warm_up=0, losses=[Loss("cuda:1", 1.0), Loss("cuda:1", 2.0, 1.0)]
    )
    assert figures.unanswered == 8
    assert figures.utilisation["cuda:1"] == pytest.approx(0.1)
    assert figures.simulated_s == 10


def test_a_lost_device_costs_its_share():
    both = Pool(
        TWO, {"cuda:0": "g", "cuda:1": "g"}, {f"cuda:{i}": {"a": 8, "b": 8} for i in (0, 1)}
    )
    whole = both.simulate(ClosedLoop(128), seconds=60)
    half = both.simulate(ClosedLoop(128), seconds=60, losses=[Loss("cuda:1", 0.0)])
    back = both.simulate(ClosedLoop(128), seconds=60, losses=[Loss("cuda:1", 6.0, 27.0)])
    assert half.throughput_rows_s == pytest.approx(whole.throughput_rows_s / 2, rel=0.03)
    assert back.throughput_rows_s == pytest.approx(whole.throughput_rows_s * 3 / 4, rel=0.03)
    assert half.utilisation["cuda:1"] == 0


def test_ensembles_of_a_mix_need_their_members_only():
    shared = Pool(TWO, {"cuda:0": "g"}, {"cuda:0": {"a": 1, "b": 1}})
    mix = [EnsembleShare(("a",), 3.0), EnsembleShare(("a", "b"))]
    figures = shared.simulate(ClosedLoop(4), requests=8000, mix=mix)
    rows = predicted(figures)
    assert rows["b"] / rows["a"] == pytest.approx(1 / 4, rel=0.05)
    assert figures.throughput_rows_s == pytest.approx(1 / (0.01 + 0.25 * 0.02), rel=0.05)


def test_later_stages_of_a_cascade_predict_their_share_of_the_rows():
    shared = Pool(THREE, {"cuda:0": "g"}, {"cuda:0": {"a": 1, "b": 1, "c": 1}})
    cascade = EnsembleShare(("a",), later=(LaterStage(("b",), 0.5), LaterStage(("c",), 0.4)))
    figures = shared.simulate(ClosedLoop(4), requests=8000, mix=[cascade])
    rows = predicted(figures)
    assert rows["b"] / rows["a"] == pytest.approx(0.5, rel=0.05)
    assert rows["c"] / rows["a"] == pytest.approx(0.2, rel=0.05)
    assert figures.unanswered == 4


def test_a_trace_says_which_ensemble_each_request_is_for():
    shared = Pool(THREE, {"cuda:0": "g"}, {"cuda:0": {"a": 1, "b": 1, "c": 1}})
    mix = [
        EnsembleShare(("a", "b"), name="both"),
        EnsembleShare(("a",), later=(LaterStage(("c",), 1.0),), name="cascade"),
    ]
    trace = Trace(((0.0, 2), (0.1, 3), (0.1, 1)), ("both", "cascade", "both"))
    figures = shared.simulate(trace, mix=mix, warm_up=0, arena_rows=2)
    assert figures.answered == 3
    assert predicted(figures) == {"a": 6, "b": 3, "c": 3}


@pytest.mark.parametrize("weights", [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (4, 4, 1)])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_saturation_by_a_mix_reaches_what_its_demand_allows(weights, share):
    cells = {"cuda:0": {"a": 1, "b": 1}, "cuda:1": {"b": 1, "c": 1}}
    costs = {"a": {"g": {1: 0.01}}, "b": {"g": {1: 0.02}}, "c": {"g": {1: 0.04}}}
    pool = Pool(costs, {"cuda:0": "g", "cuda:1": "g"}, cells)
    mix = [
        EnsembleShare(("a",), weights[0], (LaterStage(("c",), share),)),
        EnsembleShare(("a", "b"), weights[1]),
        EnsembleShare(("c",), weights[2]),
    ]
    problem = Problem(tuple("abc"), tuple(pool.devices), pool.profiles, demand=mix_demand(mix))
    possible = solve_throughput(problem, problem.cells_of(pool.matrix))[0]
    figures = pool.simulate(ClosedLoop(64), requests=6000, mix=mix, warm_up=0.3)
    assert figures.throughput_rows_s == pytest.approx(possible, rel=0.1)


def test_the_demand_of_a_mix_is_the_rows_of_each_member_per_row():
    cascade = EnsembleShare(("a",), 3.0, (LaterStage(("b",), 0.5), LaterStage(("c",), 0.0)))
    assert mix_demand([cascade, EnsembleShare(("a", "b"))]) == {"a": 1.0, "b": 0.625}


def test_members_that_disturb_each_other_are_slower(one_device):
    figures = one_device(0.01).simulate(ClosedLoop(2), requests=100, colocation={("a", "g"): 1.25})
    assert figures.throughput_rows_s == pytest.approx(80)


def test_noise_keeps_the_mean(one_device):
    figures = one_device(0.01).simulate(ClosedLoop(4), requests=20_000, noise=0.4)
    assert figures.throughput_rows_s == pytest.approx(100, rel=0.02)


def test_seconds_bound_the_run(one_device):
    figures = one_device(0.01).simulate(ClosedLoop(1), seconds=5, warm_up=0.2)
    assert (figures.simulated_s, figures.window_s) == (5, 4)
    assert figures.requests_s == pytest.approx(100, rel=0.01)


def test_figures_go_into_json(one_device):
    figures = one_device(0.01).simulate(ClosedLoop(2), requests=50)
    document = json.loads(json.dumps(figures.to_json()))
    assert document["latency"]["p99_s"] == pytest.approx(0.02)
    assert document["instances"][0]["mean_batch"] == 1


def test_a_dead_pool_has_no_figures_but_ends(one_device):
    figures = one_device(0.01).simulate(ClosedLoop(2), losses=[Loss("cuda:0", 0.0)])
    assert (figures.answered, figures.latency, figures.unanswered) == (0, None, 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"losses": [Loss("cuda:7", 1.0)]}, "device 'cuda:7' is not there"),
        ({"mix": [EnsembleShare(("z",))]}, "member 'z' is not there"),
        ({"warm_up": 1.0}, "warm_up"),
        ({"noise": -0.1}, "noise"),
        ({"requests": 0}, "requests"),
        ({"seconds": 0.0}, "seconds"),
        ({"max_waiting": 3}, "needs arena_rows"),
        ({"arena_rows": 0}, "arena_rows"),
        ({"deadline_s": 0.0}, "deadline_s"),
    ],
)
def test_what_makes_no_sense_is_refused(one_device, options, text):
    with pytest.raises(ValueError, match=text):
        one_device(0.01).simulate(ClosedLoop(1), **options)


def test_a_member_without_profile_is_refused():
    foreign = Pool({"a": {"g": {1: 0.01}}}, {"cuda:0": "x"}, {"cuda:0": {"a": 1}})
    with pytest.raises(ValueError, match="member 'a' has no profile on 'x'"):
        foreign.simulate(ClosedLoop(1))
