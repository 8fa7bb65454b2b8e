import os

import psutil
import pynvml
import pytest

from allocator import devices as devices_module
from allocator.devices import Device, Wanted, discover, select
from allocator.gpus import Gpu, find_gpus, visible_indices
from allocator.host import core_groups, memory_limit_bytes

UUIDS = ["GPU-8932f937", "GPU-8931aaaa", "GPU-11111111"]


@pytest.mark.parametrize(
    ("setting", "visible"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,7,1", [0]),
        ("0,0", [0]),
        ("GPU-11111111,0", [2, 0]),
        ("GPU-8932", [0]),
        ("GPU-893", []),
        ("MIG-whatever", []),
    ],
)
def test_cuda_visible_devices(setting, visible):
    assert visible_indices(setting, UUIDS) == visible


class FakeMemory:
    free = 7 << 30


def fake_nvml(monkeypatch, count=2):
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: count)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda i: i)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda h: f"GPU-{h}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda h: f"Kind {h}".encode())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda h: FakeMemory)


def test_gpus_are_numbered_as_cuda_does(monkeypatch):
    fake_nvml(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_gpus() == [Gpu("cuda:0", "Kind 1", 7 << 30)]


def test_a_host_without_the_driver_has_no_gpus(monkeypatch):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert find_gpus() == []


def test_up_to_four_cores_are_a_group_each(tmp_path):
    assert core_groups([0, 1, 5, 7], root=tmp_path) == [(0,), (1,), (5,), (7,)]


def test_more_cores_are_grouped_by_their_cache(tmp_path):
    for core in range(6):
        cache = tmp_path / f"sys/devices/system/cpu/cpu{core}/cache/index3"
        cache.mkdir(parents=True)
        (cache / "shared_cpu_list").write_text("0-2\n" if core < 3 else "3-5\n")
    assert core_groups([0, 1, 2, 4, 5], root=tmp_path) == [(0, 1, 2), (4, 5)]


def test_cores_of_an_unknown_cache_are_one_group(tmp_path):
    assert core_groups(list(range(6)), root=tmp_path) == [tuple(range(6))]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_memory_limit_is_the_least_of_all_cgroups(tmp_path):
    write(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path / "sys/fs/cgroup/a/b/memory.max", "max\n")
    write(tmp_path / "sys/fs/cgroup/a/memory.max", f"{64 << 20}\n")
    assert memory_limit_bytes(root=tmp_path) == 64 << 20


def test_the_memory_limit_of_cgroup_v1_in_a_container(tmp_path):
    write(tmp_path / "proc/self/cgroup", "5:cpu,memory:/docker/not-mounted\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{32 << 20}\n")
    assert memory_limit_bytes(root=tmp_path) == 32 << 20


def test_without_cgroups_the_memory_limit_is_the_hosts(tmp_path):
    assert memory_limit_bytes(root=tmp_path) == psutil.virtual_memory().total


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(devices_module, "memory_limit_bytes", lambda: 10 << 30)
    monkeypatch.setattr(devices_module, "available_cores", lambda: [0, 1])
    monkeypatch.setattr(devices_module, "find_gpus", lambda: [Gpu("cuda:0", "V100", 4 << 30)])


@pytest.mark.usefixtures("host")
def test_discovery_finds_gpus_then_cores_that_share_the_ram():
    assert discover(reserve_bytes=2 << 30) == [
        Device("cuda:0", "V100", (4 << 30) - (512 << 20)),
        Device("cpu:0", "cpu", 4 << 30, (0,)),
        Device("cpu:1", "cpu", 4 << 30, (1,)),
    ]


@pytest.mark.usefixtures("host")
def test_selected_devices_share_what_explicit_budgets_leave():
    wanted = [
        Wanted("cpu:0", cores=(0,), memory_bytes=3 << 30),
        Wanted("cpu:1", cores=(1,)),
        Wanted("cuda:0", memory_bytes=1 << 30),
    ]
    assert select(wanted, reserve_bytes=1 << 30) == [
        Device("cpu:0", "cpu", 3 << 30, (0,)),
        Device("cpu:1", "cpu", 6 << 30, (1,)),
        Device("cuda:0", "V100", 1 << 30),
    ]


@pytest.mark.usefixtures("host")
def test_a_cpu_device_without_cores_takes_all():
    assert select([Wanted("cpu:0")], reserve_bytes=0)[0].cores == (0, 1)


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted("cuda:3"), r"cuda:3: there is no such GPU \(visible here: cuda:0\)"),
        (Wanted("cpu:0", cores=(0, 9)), "may not run on core 9"),
    ],
)
def test_devices_that_are_not_there(wanted, words):
    with pytest.raises(ValueError, match=words):
        select([wanted], reserve_bytes=0)


def test_discovery_works_on_this_host():
    found = [one for one in discover(reserve_bytes=0) if not one.is_cuda]
    assert sorted(core for one in found for core in one.cores) == sorted(os.sched_getaffinity(0))
