import pytest
from profiled import CPU, GPU, OTHER, fake, member, profiled, variable_member

from server.config import Config
from server.errors import ConfigError
from server.profiling import profile, profile_members
from workers.runtime.spec import DeviceSpec

POWERS = {0: (20.0, 0.02), 1: (50.0, 0.011), 2: (20.0, 0.012), 4: (60.0, 0.025)}


@pytest.fixture
def metered(monkeypatch):
    """Let the host have meters for CPU devices."""
    monkeypatch.setattr(profile, "energy_meters", lambda device: [] if device.is_cuda else ["any"])


def joules(found, name="m", kind="cpu-1"):
    return {batch: one.joules for batch, one in found.profiles.of(name, kind).items()}


def test_the_energy_of_a_batch_is_what_it_takes_above_idle(model, script, metered):
    one = script({1: 0.010, 2: 0.012, 4: 0.020}, powers=POWERS)
    found = profiled([member("m", model)], energy=True)
    assert one.metered == [0, 1, 2, 4]
    # That of batches of 2 is lost in the idle power.
    assert joules(found) == {1: pytest.approx(0.33), 2: None, 4: pytest.approx(1.0)}
    assert (found.energy, found.idle_watts) == ({("m", "cpu-1"): "rapl"}, {"cpu-1": 20.0})


def test_it_is_measured_when_it_is_wanted_and_once(model, script, metered):
    one = script({1: 0.010}, powers=POWERS)
    assert joules(profiled([member("m", model)], batches=[1])) == {1: None}
    assert one.metered == []
    for _ in range(2):
        found = profiled([member("m", model)], batches=[1], energy=True)
        assert joules(found) == {1: pytest.approx(0.33)}
    assert (one.metered, found.from_cache) == ([0, 1], 1)
    # What is known is told, wanted or not.
    assert joules(profiled([member("m", model)], batches=[1])) == {1: pytest.approx(0.33)}


def test_the_objective_of_placement_wants_it(model, script, metered):
    one = script({1: 0.010}, powers=POWERS)
    placement = {"batch_sizes": [1], "objective": "energy", "min_rows_per_s": 5}
    document = {"members": {"m": {"model": {"recipe": "any"}}}, "placement": placement}
    profile_members(Config.model_validate(document), [member("m", model)], [CPU])
    assert one.metered == [0, 1]


def test_a_meter_that_fails_is_not_asked_again(model, script, metered):
    one = script({1: 0.010}, powers=dict.fromkeys(POWERS, (None, 0.0)))
    for _ in range(2):
        found = profiled([member("m", model)], batches=[1], energy=True)
    assert (joules(found), found.energy, found.idle_watts) == ({1: None}, {}, {})
    assert one.metered == [0, 1]


def test_rows_of_the_expected_lengths_take_their_part(model, script, metered):
    mix = {"buckets": [128, 512], "lengths": {100: 1.0}}
    script({1: 0.010}, powers=POWERS, by_size=lambda size: size / 512)
    found = profiled([variable_member("m", model, **mix)], batches=[1], energy=True)
    (one,) = found.profiles.of("m", "cpu-1").values()
    assert one.latency_s < 0.010
    assert one.joules == pytest.approx(0.33 * one.latency_s / 0.010)


def drawing(device, watts):
    return DeviceSpec(device.name, device.kind, device.memory_bytes, device.cores, watts=watts)


def test_without_a_meter_it_is_estimated_from_configured_watts(model, script):
    script({1: 0.010, 2: 0.012})
    devices = [drawing(CPU, 5.0), drawing(OTHER, 5.0), drawing(GPU, 300.0)]
    found = profiled([member("m", model), fake("f", sleep_ms=10)], devices, batches=[1, 2])
    assert joules(found) == {1: pytest.approx(0.05), 2: pytest.approx(0.06)}
    assert joules(found, "f", GPU.kind)[1] == pytest.approx(300 * 0.01002)
    assert set(found.energy.values()) == {"estimated"}
    assert len(found.energy) == 4


def test_several_cores_draw_several_times_the_watts_of_one(script):
    script({})
    wide = DeviceSpec("cpu:0", "cpu-2", 1 << 30, (0, 1), watts=5.0)
    found = profiled([fake("f", sleep_ms=10)], [wide], batches=[1])
    assert joules(found, "f", "cpu-2") == {1: pytest.approx(10 * 0.01002)}


def test_devices_of_a_kind_draw_the_same(script):
    script({})
    with pytest.raises(ConfigError, match=r"cpu:0 and cpu:1 are of one kind \(cpu-1\)"):
        profiled([fake("f")], [drawing(CPU, 5.0), drawing(OTHER, 6.0)])


def test_without_meter_and_watts_nobody_knows(model, script, metered):
    script({1: 0.010})
    found = profiled([member("m", model)], [GPU], batches=[1], energy=True)
    assert (joules(found, kind=GPU.kind), found.energy) == ({1: None}, {})
