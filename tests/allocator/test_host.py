import os

import psutil
import pytest

from allocator.host import (
    allowed_cores,
    available_cores,
    core_groups,
    cpu_model,
    memory_limit_bytes,
)


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
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {6, 2, 4, 0})


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("inner", "outer", "cores"),
    [
        ("max 100000", "max 100000", [0, 2, 4, 6]),
        ("200000 100000", "max 100000", [0, 2]),
        ("max 100000", "110000 100000", [0, 2]),
        ("150000 50000", "50000 100000", [0]),
        ("900000 100000", "900000 100000", [0, 2, 4, 6]),
    ],
)
def test_no_more_cores_than_the_least_quota_of_all_cgroups(tmp_path, inner, outer, cores):
    write(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path / "sys/fs/cgroup/a/b/cpu.max", f"{inner}\n")
    write(tmp_path / "sys/fs/cgroup/a/cpu.max", f"{outer}\n")
    assert available_cores(root=tmp_path) == cores


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("quota", "cores"), [(-1, [0, 2, 4, 6]), (250_000, [0, 2, 4])])
def test_the_quota_of_cgroup_v1_in_a_container(tmp_path, quota, cores):
    write(tmp_path / "proc/self/cgroup", "5:cpu,cpuacct:/docker/not-mounted\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert available_cores(root=tmp_path) == cores


@pytest.mark.usefixtures("four_cores")
def test_without_cgroups_all_allowed_cores_are_used(tmp_path):
    assert available_cores(root=tmp_path) == allowed_cores() == [0, 2, 4, 6]


def test_the_model_of_the_cpu(tmp_path):
    assert cpu_model(root=tmp_path) == ""
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert cpu_model(root=tmp_path) == ""
    write(tmp_path / "proc/cpuinfo", "model\t: 2\nmodel name\t: AMD  EPYC\nmodel name\t: B\n")
    assert cpu_model(root=tmp_path) == "AMD EPYC"
