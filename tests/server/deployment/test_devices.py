import pynvml
import pytest

from allocator.host import (
    available_cores,
)
from allocator.problem import Device
from server.config import DeviceConfig
from server.deployment import devices as devices_module
from server.deployment.devices import Gpu, discover, find_gpus, select, visible_devices
from server.errors import ConfigError
from workers.runtime.spec import DeviceSpec

CONTEXT = 512 << 20

GPUS = {
    "GPU-8932f937": ["GPU-8932f937"],
    "GPU-8931aaaa": ["MIG-5c0e", "MIG-5d77"],
    "GPU-11111111": ["GPU-11111111"],
}
FIRST, SLICES, LAST = GPUS.values()


@pytest.mark.parametrize(
    ("setting", "visible"),
    [
        (None, [*FIRST, *SLICES, *LAST]),
        ("", []),
        ("-1", []),
        ("2,0", [*LAST, *FIRST]),
        (" 1 , 2 ", [*SLICES, *LAST]),
        ("0,7,1", FIRST),
        ("0,0", FIRST),
        ("GPU-11111111,0", [*LAST, *FIRST]),
        ("GPU-8932", FIRST),
        ("GPU-893", []),
        ("GPU-8931", SLICES),
        ("MIG-5d77,0", ["MIG-5d77", *FIRST]),
        ("MIG-5c", ["MIG-5c0e"]),
        ("MIG-5", []),
        ("MIG-5c0e,MIG-5d77", SLICES),
        ("MIG-5c0e,1,0", ["MIG-5c0e"]),
        ("MIG-whatever", []),
    ],
)
def test_cuda_visible_devices(setting, visible):
    assert visible_devices(setting, GPUS) == visible


def test_a_uuid_that_another_begins_with_is_found():
    slices = ["MIG-GPU-1/1/1", "MIG-GPU-1/1/10"]
    assert visible_devices("MIG-GPU-1/1/1", {"GPU-1": slices}) == slices[:1]


class FakeMemory:
    free = 7 << 30
    total = 8 << 30


def fake_nvml(monkeypatch, *, slices=None):
    """Two GPUs; `slices` gives by GPU which MIG indices are in use, absent ones know no MIG."""
    slices = slices or {}

    def mig_mode(handle):
        if handle not in slices:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(slices[handle] is not None), 0]

    def slice_handle(handle, index):
        if index not in slices[handle]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"{handle}.{index}"

    def uuid(handle):
        return f"{'MIG' if '.' in str(handle) else 'GPU'}-{handle}"

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda i: i)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda h: f"Kind {h}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda h: FakeMemory)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigMode", mig_mode)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMaxMigDeviceCount", lambda h: 7)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigDeviceHandleByIndex", slice_handle)


def test_gpus_are_numbered_as_cuda_does(monkeypatch):
    fake_nvml(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_gpus() == [Gpu("cuda:0", "Kind 1", 7 << 30, 8 << 30, "GPU-1")]


def test_slices_are_devices_instead_of_their_gpu(monkeypatch):
    fake_nvml(monkeypatch, slices={0: {0, 3}, 1: None})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [(gpu.name, gpu.kind, gpu.uuid) for gpu in find_gpus()] == [
        ("cuda:0", "Kind 0.0", "MIG-0.0"),
        ("cuda:1", "Kind 0.3", "MIG-0.3"),
        ("cuda:2", "Kind 1", "GPU-1"),
    ]


def test_a_gpu_that_is_not_yet_divided_is_no_device(monkeypatch):
    fake_nvml(monkeypatch, slices={0: set()})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [(gpu.name, gpu.uuid) for gpu in find_gpus()] == [("cuda:0", "GPU-1")]


def test_a_host_without_the_driver_has_no_gpus(monkeypatch):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert find_gpus() == []


@pytest.fixture
def host(monkeypatch):
    """Ten GiB of RAM, three cores of which a quota pays for two, and a GPU."""
    gpu = Gpu("cuda:0", "V100", 4 << 30, 5 << 30, "GPU-a")
    monkeypatch.setattr(devices_module, "memory_limit_bytes", lambda: 10 << 30)
    monkeypatch.setattr(devices_module, "allowed_cores", lambda: [0, 1, 2])
    monkeypatch.setattr(devices_module, "available_cores", lambda: [0, 1])
    monkeypatch.setattr(devices_module, "find_gpus", lambda: [gpu])


@pytest.mark.usefixtures("host")
def test_discovery_finds_gpus_then_cores_that_share_the_ram():
    assert discover(reserve_bytes=2 << 30) == [
        DeviceSpec("cuda:0", "V100", (4 << 30) - CONTEXT, uuid="GPU-a"),
        DeviceSpec("cpu:0", "cpu-1", 8 << 30, (0,), pool="ram"),
        DeviceSpec("cpu:1", "cpu-1", 8 << 30, (1,), pool="ram"),
    ]


@pytest.mark.usefixtures("host")
def test_selected_devices_share_what_explicit_budgets_leave():
    wanted = [
        DeviceConfig(name="cpu:0", cores=(0, 2), memory_bytes=3 << 30),
        DeviceConfig(name="cpu:1", cores=(1,)),
        DeviceConfig(name="cuda:0", memory_bytes=1 << 30),
    ]
    assert select(wanted, reserve_bytes=1 << 30) == [
        DeviceSpec("cpu:0", "cpu-2", 3 << 30, (0, 2)),
        DeviceSpec("cpu:1", "cpu-1", 6 << 30, (1,), pool="ram"),
        DeviceSpec("cuda:0", "V100", 1 << 30, uuid="GPU-a"),
    ]


@pytest.mark.usefixtures("host")
def test_virtual_devices():
    wanted = [
        DeviceConfig(name="half", part_of="cuda:0", memory_fraction=0.5),
        DeviceConfig(name="rest", part_of="cuda:0", memory_bytes=1 << 30),
        DeviceConfig(name="one", part_of="cpu", cores=(0,)),
        DeviceConfig(name="two", part_of="cpu", cores=(0, 1), memory_bytes=1 << 30),
    ]
    selected = select(wanted, reserve_bytes=0)
    assert selected == [
        DeviceSpec("half", "V100", (2 << 30) - CONTEXT, uuid="GPU-a", virtual=True),
        DeviceSpec("rest", "V100", 1 << 30, uuid="GPU-a", virtual=True),
        DeviceSpec("one", "cpu-1", 9 << 30, (0,), pool="ram", virtual=True),
        DeviceSpec("two", "cpu-2", 1 << 30, (0, 1), virtual=True),
    ]
    assert [device.is_cuda for device in selected] == [True, True, False, False]


@pytest.mark.usefixtures("host")
def test_a_cpu_device_without_cores_takes_all_that_are_paid_for():
    assert select([DeviceConfig(name="cpu:0")], reserve_bytes=0)[0].cores == (0, 1)


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            DeviceConfig(name="cuda:3"),
            r"^devices: cuda:3: there is no such GPU \(visible here: cuda:0\)",
        ),
        (
            DeviceConfig(name="half", part_of="cuda:3", memory_fraction=0.5),
            r"^devices: half \(part of cuda:3\): there is no such GPU",
        ),
        (
            DeviceConfig(name="cuda:0", memory_bytes=6 << 30),
            r"^devices: cuda:0: memory_bytes of 6.0 GiB in all is more than cuda:0 has \(5.0 GiB\)",
        ),
        (DeviceConfig(name="cpu:0", cores=(0, 9)), "may not run on core 9"),
    ],
)
def test_devices_that_are_not_there(wanted, words):
    with pytest.raises(ConfigError, match=words):
        select([wanted], reserve_bytes=0)


@pytest.mark.parametrize(
    ("name", "kind", "is_cuda"),
    [
        ("cuda:0", "V100", True),
        ("half", "NVIDIA H200", True),
        ("cpu:0", "Xeon", False),
        ("slow", "cpu-2", False),
        ("CPU", "Xeon", False),
        ("slow", "CPU", False),
    ],
)
def test_what_is_a_gpu(name, kind, is_cuda):
    assert Device(name, kind, 1).is_cuda == DeviceSpec(name, kind, 1).is_cuda == is_cuda


def test_discovery_works_on_this_host():
    found = [one for one in discover(reserve_bytes=0) if not one.is_cuda]
    assert sorted(core for one in found for core in one.cores) == available_cores()
