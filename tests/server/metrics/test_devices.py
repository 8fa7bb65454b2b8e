import asyncio
from types import SimpleNamespace

import pytest

from server.metrics.devices import DeviceMetrics
from server.metrics.registry import MetricsRegistry
from workers.runtime.spec import DeviceSpec

MEMORY, MEMORY_USED, UTILIZATION, POWER, TEMPERATURE, ENERGY = (
    f"ensembled_gpu_{name}"
    for name in (
        "memory_bytes",
        "memory_used_bytes",
        "utilization_ratio",
        "power_watts",
        "temperature_celsius",
        "energy_joules_total",
    )
)
CPU = DeviceSpec("cpu:0", "cpu-1", 1 << 30, cores=(0,))
CUDA = DeviceSpec("cuda:0", "NVIDIA H200", 2 << 30)


class FakeNvml:
    """What `pynvml` has of what is used, for GPUs by index."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, *uuids: str, cannot: str = "", dead: bool = False) -> None:
        self.uuids = uuids
        self.cannot = cannot
        self.dead = dead
        self.begun = 0

    def nvmlInit(self):
        self.begun += 1
        if self.dead:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= len(self.uuids):
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in self.uuids:
            raise self.NVMLError("Not Found")
        return self.uuids.index(uuid)

    def nvmlDeviceGetUUID(self, gpu):
        return self.uuids[gpu]

    def _tell(self, question, answer):
        if question == self.cannot:
            raise self.NVMLError("Not Supported")
        return answer

    def nvmlDeviceGetMemoryInfo(self, gpu):
        return SimpleNamespace(total=1000 + gpu, used=100 + gpu)

    def nvmlDeviceGetUtilizationRates(self, gpu):
        return SimpleNamespace(gpu=25, memory=0)

    def nvmlDeviceGetPowerUsage(self, gpu):
        return self._tell("power", 150_500)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        return self._tell("energy", 7_250)

    def nvmlDeviceGetTemperature(self, gpu, sensor):
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 41


def test_base_units():
    assert DeviceMetrics([CPU, CUDA], lambda: FakeNvml("GPU-a")).read() == {
        MEMORY: {"GPU-a": 1000},
        MEMORY_USED: {"GPU-a": 100},
        UTILIZATION: {"GPU-a": 0.25},
        POWER: {"GPU-a": 150.5},
        ENERGY: {"GPU-a": 7.25},
        TEMPERATURE: {"GPU-a": 41},
    }


def test_a_gpu_that_several_devices_share_is_one():
    shared = [
        DeviceSpec(name, "NVIDIA H200", 1 << 30, uuid=uuid, virtual=True)
        for name, uuid in (("small", "GPU-b"), ("large", "GPU-b"), ("other", "GPU-a"))
    ]
    gpus = DeviceMetrics(shared, lambda: FakeNvml("GPU-a", "GPU-b"))
    assert gpus.read()[MEMORY_USED] == {"GPU-b": 101, "GPU-a": 100}
    assert gpus.gpu_of_device == {"small": "GPU-b", "large": "GPU-b", "other": "GPU-a"}


@pytest.mark.parametrize(("cannot", "question"), [("power", POWER), ("energy", ENERGY)])
def test_unsupported_gpu_metrics_are_left_out(cannot, question):
    told = DeviceMetrics([CUDA], lambda: FakeNvml("GPU-a", cannot=cannot)).read()
    assert told.pop(question) == {}
    assert all(told.values())


def missing():
    raise ImportError("No module named 'pynvml'")


@pytest.mark.parametrize("load", [missing, lambda: FakeNvml(dead=True), FakeNvml])
def test_a_missing_nvml_or_gpu_is_logged_once(load, caplog):
    gpus = DeviceMetrics([CUDA], load)
    for _ in range(3):
        assert not any(gpus.read().values())
    (record,) = caplog.records
    assert "NVML" in record.getMessage()


def test_without_gpus_nvml_is_not_loaded():
    def load():
        raise AssertionError

    assert not any(DeviceMetrics([CPU], load).read().values())


def scrape(devices, load):
    collector = DeviceMetrics(devices, load)
    body, _ = asyncio.run(MetricsRegistry({"devices": collector.collect}).scrape(""))
    return body.decode().splitlines()


def test_exposition_of_devices():
    lines = scrape([CPU, CUDA], lambda: FakeNvml("GPU-a"))
    assert 'ensembled_gpu_energy_joules_total{gpu="GPU-a"} 7.25' in lines
    assert 'ensembled_gpu_power_watts{gpu="GPU-a"} 150.5' in lines
    assert 'ensembled_device_info{device="cpu:0",gpu="",kind="cpu-1"} 1.0' in lines
    assert 'ensembled_device_info{device="cuda:0",gpu="GPU-a",kind="NVIDIA H200"} 1.0' in lines
    assert 'ensembled_metrics_errors_total{collector="devices"} 0.0' in lines


def test_a_failing_nvml_breaks_no_scrape():
    class Broken(FakeNvml):
        def nvmlDeviceGetUtilizationRates(self, gpu):
            raise RuntimeError("the library is of another version")

    lines = scrape([CUDA], lambda: Broken("GPU-a"))
    assert 'ensembled_device_memory_budget_bytes{device="cuda:0"} 2.147483648e+09' in lines
    assert 'ensembled_metrics_errors_total{collector="devices"} 1.0' in lines
