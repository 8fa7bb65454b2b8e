import signal

import pytest
from metered import SLICE, FakeNvml
from profiled import GPU, fake, member

from server.config import Config
from server.errors import ConfigError
from server.profiling.power import (
    PowerPoint,
    best_points,
    limit_steps,
    measure_points,
    power_limit,
)
from workers.runtime.spec import DeviceSpec


def point(member, batch, limit, rows_per_s, joules):
    return PowerPoint(member, batch, limit, rows_per_s, joules)


@pytest.mark.parametrize(("eta", "limit", "batch"), [(1.0, 300, 8), (0.0, 700, 8), (0.5, 500, 8)])
def test_eta_weighs_energy_against_time_at_the_highest_limit(eta, limit, batch):
    points = [
        point("a", 1, 700, 60, 10.0),
        point("a", 8, 700, 100, 6.9),
        point("a", 8, 500, 95, 4.9),
        point("a", 8, 300, 60, 4.5),
    ]
    (best,) = best_points(points, eta=eta, most_watts=700)
    assert (best.limit_watts, best.batch) == (limit, batch)


def test_all_members_have_the_limit_that_is_best_for_them_together():
    points = [
        *(point("a", 1, limit, 10, joules) for limit, joules in ((700, 5.0), (300, 4.0))),
        *(point("b", batch, 700, 10, 9.0 - batch) for batch in (1, 4)),
        point("b", 4, 300, 10, 8.0),
        point("a", 1, 200, 10, 0.1),  # where b could not be measured
    ]
    best = best_points(points, eta=1.0, most_watts=700)
    assert [(one.member, one.batch, one.limit_watts) for one in best] == [
        ("a", 1, 700),
        ("b", 4, 700),
    ]
    assert best_points([], eta=1.0, most_watts=700) == ()


def limit_of(nvml):
    found = power_limit(DeviceSpec("cuda:0", "H200", 1, uuid="GPU-a"), load=lambda: nvml)
    assert found is not None
    return found


def test_limits_are_tried_and_the_former_one_is_set_again():
    nvml = FakeNvml("GPU-a")
    nvml.limit_mw["GPU-a"] = 650_000
    limit = limit_of(nvml)
    assert limit_steps(limit, 3) == [700, 450, 200]
    assert nvml.limits_set == []  # to look sets nothing
    with limit.changing() as set_limit:
        set_limit(450)
        assert nvml.limit_mw["GPU-a"] == 450_000
    assert nvml.limit_mw["GPU-a"] == 650_000


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("end", "failure"),
    [
        (lambda: fail(RuntimeError()), RuntimeError),
        (lambda: fail(KeyboardInterrupt()), KeyboardInterrupt),
        (lambda: signal.raise_signal(signal.SIGTERM), SystemExit),
    ],
    ids=["error", "interrupt", "SIGTERM"],
)
def test_whatever_happens_the_former_limit_is_set_again(end, failure):
    nvml, before = FakeNvml("GPU-a"), signal.getsignal(signal.SIGTERM)

    def measure():
        with limit_of(nvml).changing() as set_limit:
            set_limit(300)
            end()

    with pytest.raises(failure):
        measure()
    assert nvml.limits_set == [700_000, 300_000, 700_000]
    assert signal.getsignal(signal.SIGTERM) == before


def test_who_may_not_set_it_is_told_so():
    with (
        pytest.raises(ConfigError, match="GPU-a can't be set .* root may"),
        limit_of(FakeNvml("GPU-a", cannot=("set",))).changing(),
    ):
        raise AssertionError


@pytest.mark.parametrize(
    "nvml", [FakeNvml(dead=True), FakeNvml(cannot=("limit",)), FakeNvml("GPU-b")]
)
def test_a_gpu_that_does_not_tell_has_none(nvml):
    for uuid in ("GPU-a", SLICE):
        device = DeviceSpec("cuda:0", "H200", 1, uuid=uuid)
        assert power_limit(device, load=lambda: nvml) is None


def test_points_have_the_idle_power_and_leave_the_cache_alone(model, script, cache):
    script({1: 0.010, 2: 0.016}, powers={0: (80.0, 0.02), 1: (180.0, 0.010), 2: (70.0, 0.016)})
    document = {
        "members": {"m": {"model": {"recipe": "any"}}},
        "placement": {"batch_sizes": [1, 2]},
    }
    members = [member("m", model), fake("f")]
    config = Config.model_validate(document)
    points = measure_points(config, members, GPU, 450.0, lambda what: None)
    # Batches of 2 draw less than the idle GPU did: nothing is known of them.
    assert points == [point("m", 1, 450.0, pytest.approx(100), pytest.approx(1.8))]
    assert not cache.exists()
