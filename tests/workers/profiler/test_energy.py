import itertools

import pytest
from metered import SLICE, FakeNvml, FakeRapl

from workers.profiler.energy import energy_meters, measure_power
from workers.runtime.spec import DeviceSpec

CUDA = DeviceSpec("cuda:0", "NVIDIA H200", 1 << 30, uuid="GPU-a")


def cpu(*cores):
    return DeviceSpec("cpu:0", f"cpu-{len(cores)}", 1 << 30, cores)


def test_a_gpu_has_the_driver_s_counter_in_joules():
    nvml = FakeNvml("GPU-a", watts=50)
    (meter,) = energy_meters(CUDA, load=lambda: nvml)
    assert (meter.name, meter.source) == ("GPU-a", "nvml")
    before = meter.joules()
    nvml.advance(3)
    assert meter.joules() - before == pytest.approx(150)


def test_without_a_counter_the_power_draw_is_added_up(monkeypatch):
    nvml = FakeNvml("GPU-a", watts=50, cannot=("energy",))
    monkeypatch.setattr("time.monotonic", nvml.clock)
    (meter,) = energy_meters(CUDA, load=lambda: nvml)
    assert meter.source == "nvml-power"
    nvml.advance(2)
    assert meter.joules() == pytest.approx(100)
    nvml.watts = 150
    nvml.advance(1)
    assert meter.joules() == pytest.approx(100 + 100)  # between 50 and 150 W


def missing():
    raise ImportError("No module named 'pynvml'")


@pytest.mark.parametrize(
    ("device", "load"),
    [
        (CUDA, missing),
        (CUDA, lambda: FakeNvml(dead=True)),
        (CUDA, lambda: FakeNvml(cannot=("energy", "power"))),
        (DeviceSpec("cuda:0", "x", 1, uuid="GPU-other"), FakeNvml),
        (DeviceSpec("cuda:0", "NVIDIA A100 MIG 1g.5gb", 1, uuid=SLICE), FakeNvml),
        (DeviceSpec("part", "NVIDIA H200", 1), FakeNvml),
    ],
    ids=["no module", "no driver", "neither", "other GPU", "MIG", "no number"],
)
def test_what_nvml_does_not_tell_has_no_meter(device, load):
    assert energy_meters(device, load=load) == []


def test_cores_are_metered_by_the_processors_that_they_are_on(tmp_path):
    rapl = FakeRapl(tmp_path, {0: (0, 1), 1: (2, 3)})
    assert [one.name for one in energy_meters(cpu(1), root=tmp_path)] == ["package-0"]
    both = energy_meters(cpu(1, 2), root=tmp_path)
    assert [(one.name, one.source) for one in both] == [
        ("package-0", "rapl"),
        ("package-1", "rapl"),
    ]
    rapl.set(1, 2_500_000)
    assert [one.joules() for one in both] == [0, 2.5]


def test_a_counter_that_starts_again_goes_on(tmp_path):
    rapl = FakeRapl(tmp_path, {0: (0,)}, most_uj=10_000_000)
    rapl.set(0, 9_000_000)
    (meter,) = energy_meters(cpu(0), root=tmp_path)
    read = []
    for microjoules in (9_500_000, 500_000, 500_000, 400_000):
        rapl.set(0, microjoules)
        read.append(meter.joules())
    assert read == pytest.approx([0.5, 1.5, 1.5, 11.4])


@pytest.mark.parametrize("name", ["core", "dram", "psys"])
def test_zones_of_parts_of_a_processor_do_not_count(tmp_path, name):
    FakeRapl(tmp_path, {0: (0,)}, names={0: name})
    assert energy_meters(cpu(0), root=tmp_path) == []


def test_a_die_of_a_processor_is_a_zone_of_it(tmp_path):
    FakeRapl(tmp_path, {0: (0,)}, names={0: "package-0-die-1"})
    assert [one.name for one in energy_meters(cpu(0), root=tmp_path)] == ["package-0-die-1"]


def forbid(path, monkeypatch):
    """Root reads everything, so a denial has to be pretended."""
    real = type(path).read_text

    def read_text(self, *args, **options):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **options)

    monkeypatch.setattr(type(path), "read_text", read_text)


def test_counters_that_only_root_may_read_are_none(tmp_path, monkeypatch):
    rapl = FakeRapl(tmp_path, {0: (0,), 1: (1,)})
    forbid(rapl.files[1], monkeypatch)
    assert energy_meters(cpu(1), root=tmp_path) == []


def test_a_host_without_rapl_or_with_other_processors_has_no_meter(tmp_path):
    assert energy_meters(cpu(0), root=tmp_path) == []
    rapl = FakeRapl(tmp_path, {0: (0,), 1: (1,)})
    rapl.files[1].with_name("name").write_text("psys")
    assert energy_meters(cpu(0, 1), root=tmp_path) == []


def test_power_is_measured_between_steps_of_the_counter():
    nvml = FakeNvml("GPU-a", watts=300, step_s=0.1)
    meters = energy_meters(CUDA, load=lambda: nvml)
    nvml.advance(0.07)  # the first step comes early: with the whole window it would be an error
    found = measure_power(meters, lambda: nvml.advance(0.004), 1.0, clock=nvml.clock)
    assert found.watts == pytest.approx(300, rel=0.02)
    assert found.run_s == pytest.approx(0.004)


def test_runs_that_are_longer_than_the_window_are_repeated():
    nvml = FakeNvml("GPU-a", watts=300)
    meters = energy_meters(CUDA, load=lambda: nvml)
    found = measure_power(meters, lambda: nvml.advance(30.0), 1.0, clock=nvml.clock)
    assert found == (pytest.approx(300), pytest.approx(30))


def test_a_counter_that_stands_still_tells_nothing():
    nvml = FakeNvml("GPU-a", watts=0)
    meters = energy_meters(CUDA, load=lambda: nvml)
    runs = itertools.count()

    def run():
        nvml.advance(0.02)
        next(runs)

    assert measure_power(meters, run, 1.0, clock=nvml.clock) is None
    assert next(runs) == pytest.approx(250, abs=2)
