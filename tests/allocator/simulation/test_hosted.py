import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.simulation import ClosedLoop, Host, Loss, Poisson, Trace
from tests.allocator.simulation.pools import Pool

#: As on a small machine: everything shares two cores.
SMALL = Host(
    cores=2,
    frontend_s_per_turn=50e-6,
    frontend_s_per_request=30e-6,
    frontend_s_per_job=5e-6,
    combiner_s_per_turn=30e-6,
    combiner_s_per_range=1e-6,
    combiner_s_per_row=1e-6,
    worker_s_per_job=20e-6,
    client_s_per_request=5e-6,
)


def tiny(members=5, seconds=20e-6):
    names = [f"m{i}" for i in range(members)]
    return Pool(
        {name: {"cpu": {1: seconds, 32: 4 * seconds}} for name in names},
        {"cpu:0": "cpu", "cpu:1": "cpu"},
        {f"cpu:{i}": dict.fromkeys(names, 32) for i in (0, 1)},
    )


def test_a_lone_request_passes_every_process_in_turn():
    one = Pool({"a": {"cpu": {1: 0.01}}}, {"cpu:0": "cpu"}, {"cpu:0": {"a": 1}})
    host = Host(
        cores=4,
        frontend_s_per_turn=0.001,
        frontend_s_per_request=0.0004,
        frontend_s_per_row=0.0001,
        frontend_s_per_byte=1e-6,
        row_bytes=100,
        combiner_s_per_turn=0.0003,
        combiner_s_per_row=0.00005,
        worker_s_per_job=0.0007,
    )
    figures = one.simulate(Trace(((1.0, 1),)), host=host, warm_up=0)
    front_end = 0.001 + 0.0002 + 0.0001 + 0.0001
    # The front-end's turn over the finished job comes before that over the answer.
    assert figures.latency.mean_s == pytest.approx(
        front_end + 0.0107 + max(0.00035, 0.001) + 0.001 + 0.0002
    )
    assert figures.instances[0].jobs == 1


def test_turns_are_shared_under_load():
    pool = tiny()
    alone, busy = (
        pool.simulate(ClosedLoop(n), host=SMALL, requests=3000).throughput_rows_s for n in (1, 64)
    )
    assert busy > 5 * alone
    turns_alone = 1 / (SMALL.frontend_s_per_turn + SMALL.frontend_s_per_request)
    assert busy > turns_alone  # an unshared turn per request could not do that


def test_processes_slow_the_workers_down_where_cores_are_few():
    few, many = (
        tiny(seconds=2e-3).simulate(
            Poisson(600), host=Host(cores=cores, frontend_s_per_request=1e-3), requests=3000
        )
        for cores in (2, 8)
    )
    assert few.latency.mean_s > 1.1 * many.latency.mean_s
    assert few.utilisation["cpu:0"] > many.utilisation["cpu:0"]
    assert many.processes["front-end"] == pytest.approx(0.6, rel=0.05)


def test_workers_alone_share_what_cores_there_are():
    wide = Pool(
        {"a": {"cpu": {1: 0.01}}},
        {"cpu:0": "cpu", "cpu:1": "cpu"},
        {"cpu:0": {"a": 1}, "cpu:1": {"a": 1}},
    )
    figures = wide.simulate(ClosedLoop(8), host=Host(cores=1), requests=500)
    assert figures.throughput_rows_s == pytest.approx(100)
    assert figures.processes == {}


def test_the_load_generator_bounds_what_it_can_send():
    fast = Pool({"a": {"g": {1: 1e-5, 32: 1e-5}}}, {"cuda:0": "g"}, {"cuda:0": {"a": 32}})
    figures = fast.simulate(ClosedLoop(64), host=Host(client_s_per_request=1e-3), requests=2000)
    assert figures.requests_s == pytest.approx(1000)
    assert figures.processes["client"] == pytest.approx(1.0)


def test_costs_too_small_to_matter_leave_the_plain_model():
    pool = tiny(seconds=0.01)
    plain = pool.simulate(ClosedLoop(64), requests=2000)
    hosted = pool.simulate(ClosedLoop(64), requests=2000, host=Host(frontend_s_per_turn=1e-12))
    assert hosted.throughput_rows_s == pytest.approx(plain.throughput_rows_s, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1e-4]), st.integers(1, 9)), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 0.004)), max_size=4),
    st.sampled_from([None, 5]),
    st.booleans(),
)
def test_nothing_is_lost_between_the_processes(gaps, losses, arena_rows, shared):
    now, requests = 0.0, []
    for gap, rows in gaps:
        now += gap
        requests.append((now, rows))
    figures = tiny(members=3).simulate(
        Trace(tuple(requests)),
        host=SMALL if shared else Host(frontend_s_per_turn=1e-4),
        warm_up=0,
        arena_rows=arena_rows,
        losses=[Loss(f"cpu:{i}", at, 0.001) for i, at in losses],
    )
    rows = sum(rows for _, rows in requests)
    assert figures.answered == len(requests)
    assert sum(one.rows for one in figures.instances) == 3 * rows
    assert all(0 <= share <= 1 + 1e-9 for share in figures.utilisation.values())
    assert all(0 <= share <= 1 + 1e-9 for share in figures.processes.values())


def test_the_same_seed_gives_the_same_figures():
    def run(seed):
        return tiny().simulate(Poisson(3000), host=SMALL, requests=500, seed=seed)

    assert run(1) == run(1) != run(2)


def test_negative_costs_are_refused():
    with pytest.raises(ValueError, match="frontend_s_per_turn"):
        Host(frontend_s_per_turn=-1.0)
