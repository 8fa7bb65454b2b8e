import pytest

import server.deployment.costs
from allocator.profiles import Profile, Profiles
from server.deployment.costs import HOST_ROW_S, JOB_S, plan_problem
from server.profiling import Measurements
from workers.runtime.spec import DeviceSpec

GIB = 1 << 30


def found(profiles, **changes):
    fields = {
        "profiles": Profiles(profiles),
        "worker_bytes": {},
        "colocation": {},
        "missing": (),
        "estimated": (),
        "from_cache": 0,
        "measured": 0,
    }
    return Measurements(**(fields | changes))


def cpus(*cores, pool="ram", memory=8 * GIB):
    return [
        DeviceSpec(f"cpu:{i}", "cpu-1", memory, (core,), pool=pool) for i, core in enumerate(cores)
    ]


@pytest.fixture
def cores(monkeypatch):
    def there(*ids):
        monkeypatch.setattr(server.deployment.costs, "available_cores", lambda: list(ids))

    there(0, 1)
    return there


A = Profile("a", "cpu-1", 4, 0.010, GIB)


def test_workers_are_paid_for_once_per_device_of_a_pool(cores):
    planned = plan_problem(found([A], worker_bytes={"cpu-1": GIB}), cpus(0, 1), {"a": 64})
    assert [device.memory_bytes for device in planned.problem.devices] == [6 * GIB] * 2
    assert planned.problem.memory_domains[0].devices == (0, 1)
    alone = plan_problem(found([A], worker_bytes={"cpu-1": GIB}), cpus(0, 1, pool=""), {"a": 64})
    assert [device.memory_bytes for device in alone.problem.devices] == [7 * GIB] * 2
    assert any("1.0 GiB by itself" in line for line in planned.corrections)


def test_busy_neighbours_and_jobs_take_their_time(cores):
    planned = plan_problem(found([A], colocation={("a", "cpu-1"): 1.5}), cpus(0, 1), {"a": 64})
    assert planned.problem.profile(0, 0, 4).latency_s == pytest.approx(0.015 + JOB_S)
    assert any("1.50 x as long" in line for line in planned.corrections)
    quiet = plan_problem(found([A], colocation={("a", "cpu-1"): 1.01}), cpus(0, 1), {"a": 64})
    assert not any(" x as long" in line for line in quiet.corrections)


def test_front_end_and_combiner_take_their_share_where_no_core_is_left_to_them(cores):
    planned = plan_problem(found([A]), cpus(0, 1), {"a": 64})
    assert planned.problem.row_s == {"cpu:0": HOST_ROW_S / 2, "cpu:1": HOST_ROW_S / 2}
    assert planned.host.cores == 2
    cores(0, 1, 2)
    spare = plan_problem(found([A]), cpus(0, 1), {"a": 64})
    assert (spare.problem.row_s, spare.host.has_processes) == ({}, False)
    gpus = [DeviceSpec("cuda:0", "V100", GIB)]
    on_gpu = plan_problem(found([Profile("a", "V100", 1, 0.1, 1)]), gpus, {"a": 64})
    assert on_gpu.problem.row_s == {}


def test_batches_of_which_the_arena_holds_no_two_are_left_out(cores):
    profiles = [Profile("a", "cpu-1", batch, 0.01 * batch, GIB) for batch in (2, 4, 8)]
    planned = plan_problem(found(profiles), cpus(0), {"a": 5})
    assert [one.batch for one in planned.problem.options(0, 0)] == [2, 4]
    # The smallest stays: that not even it fits, is for the composition to say.
    least = plan_problem(found(profiles), cpus(0), {"a": 1})
    assert [one.batch for one in least.problem.options(0, 0)] == [2]


def test_predictions_are_called_predictions(cores):
    planned = plan_problem(found([A], estimated=(("a", "cpu-1"),)), cpus(0), {"a": 64})
    assert "a on cpu-1 is predicted, nothing of it was measured" in planned.corrections
