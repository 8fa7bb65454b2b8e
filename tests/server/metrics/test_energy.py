import asyncio

import pytest
from metered import SLICE, FakeNvml, FakeRapl

from server.metrics.devices import DeviceMetrics
from server.metrics.registry import MetricsRegistry
from workers.runtime.spec import DeviceSpec

FAMILY = "ensembled_device_energy_joules_total"
CUDA = DeviceSpec("cuda:0", "NVIDIA H200", 1, uuid="GPU-a")
ONE, TWO = (DeviceSpec(f"cpu:{core}", "cpu-1", 1, (core,)) for core in (0, 1))


class Host:
    """A host whose devices are scraped, a second or more apart."""

    def __init__(self, root, *devices, **nvml):
        self.nvml = FakeNvml("GPU-a", **nvml)
        self.busy = {device.name: 0.0 for device in devices}
        self.devices = list(devices)
        self.metrics = DeviceMetrics(
            self.devices, lambda: self.nvml, busy_s=lambda: dict(self.busy), root=root
        )

    def scrape(self):
        self.metrics._sampler._taking = None  # the last sample is old
        registry = MetricsRegistry({"devices": self.metrics.collect})
        body, _ = asyncio.run(registry.scrape(""))
        lines = [line for line in body.decode().splitlines() if line.startswith(FAMILY + "{")]
        return {
            line.partition(FAMILY)[2].partition(" ")[0]: float(line.split()[-1]) for line in lines
        }


def key(device, source):
    return f'{{device="{device}",source="{source}"}}'


def test_a_gpu_s_counter_goes_on_from_the_first_scrape(tmp_path):
    host = Host(tmp_path, CUDA, watts=50)
    assert host.scrape() == {key("cuda:0", "nvml"): 0}
    host.nvml.advance(4)
    assert host.scrape() == {key("cuda:0", "nvml"): pytest.approx(200)}


def test_devices_of_a_processor_share_its_energy_by_how_busy_they_were(tmp_path):
    rapl = FakeRapl(tmp_path, {0: (0, 1)}, most_uj=100_000_000)
    rapl.set(0, 90_000_000)
    host = Host(tmp_path, ONE, TWO)
    host.scrape()
    host.busy |= {"cpu:0": 3.0, "cpu:1": 1.0}
    rapl.set(0, 10_000_000)  # the counter has started again
    found = host.scrape()
    assert found == {
        key("cpu:0", "rapl"): pytest.approx(15),
        key("cpu:1", "rapl"): pytest.approx(5),
    }
    rapl.set(0, 14_000_000)  # nobody was busy
    found = host.scrape()
    assert found == {
        key("cpu:0", "rapl"): pytest.approx(17),
        key("cpu:1", "rapl"): pytest.approx(7),
    }


def test_parts_of_a_gpu_share_its_counter(tmp_path):
    parts = [DeviceSpec(name, "NVIDIA H200", 1, uuid="GPU-a", virtual=True) for name in "ab"]
    host = Host(tmp_path, *parts, watts=10)
    host.scrape()
    host.busy["a"] = 1.0
    host.nvml.advance(4)
    assert host.scrape() == {key("a", "nvml"): pytest.approx(40), key("b", "nvml"): 0}


def test_without_a_meter_busy_seconds_draw_the_configured_watts(tmp_path):
    part = DeviceSpec("cuda:0", "MIG 1g", 1, uuid=SLICE, watts=60.0)
    wide = DeviceSpec("cpu:0", "cpu-2", 1, (0, 1), watts=5.0)
    host = Host(tmp_path, part, wide, TWO)
    host.scrape()
    host.busy |= {"cuda:0": 2.0, "cpu:0": 3.0, "cpu:1": 9.0}
    assert host.scrape() == {key("cuda:0", "estimated"): 120, key("cpu:0", "estimated"): 30}
    # Counters of members that are gone make the sum smaller, and add nothing.
    host.busy |= {"cuda:0": 1.0, "cpu:0": 4.0}
    assert host.scrape() == {key("cuda:0", "estimated"): 120, key("cpu:0", "estimated"): 40}


def test_a_meter_that_fails_stands_still(tmp_path):
    rapl = FakeRapl(tmp_path, {0: (0,)})
    host = Host(tmp_path, ONE)
    host.scrape()
    rapl.set(0, 5_000_000)
    host.scrape()
    rapl.files[0].unlink()
    assert host.scrape() == {key("cpu:0", "rapl"): pytest.approx(5)}


def test_a_device_that_comes_is_metered(tmp_path):
    FakeRapl(tmp_path, {0: (0,)})
    host = Host(tmp_path, CUDA)
    host.scrape()
    host.devices.append(ONE)
    assert set(host.scrape()) == {key("cuda:0", "nvml"), key("cpu:0", "rapl")}
