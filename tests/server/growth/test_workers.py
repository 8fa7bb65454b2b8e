"""Which device each process that trains gets."""

import pytest

from server.deployment.devices import Gpu
from server.growth import workers
from server.growth.workers import training_devices

GPUS = [Gpu(f"cuda:{n}", "NVIDIA H200", 1 << 37, 1 << 37, f"GPU-{n}") for n in range(2)]


@pytest.fixture
def host(monkeypatch):
    """Have a host with some GPUs and cores."""

    def having(gpus, cores):
        monkeypatch.setattr(workers, "find_gpus", lambda: gpus)
        monkeypatch.setattr(workers, "available_cores", lambda: [*range(cores)])

    return having


def test_without_gpus_each_group_of_cores_has_a_process(host):
    host([], 4)
    devices = training_devices(None)
    assert [one.cores for one in devices] == [(0,), (1,), (2,), (3,)]
    assert devices[3].environment == {"OMP_NUM_THREADS": "1"}


def test_the_cores_are_divided_among_the_processes(host):
    host([], 5)
    assert [one.cores for one in training_devices(2)] == [(0, 1), (2, 3, 4)]


def test_more_processes_than_cores_share_them(host):
    host([], 2)
    assert [one.cores for one in training_devices(4)] == [(0,), (0,), (1,), (1,)]


def test_each_gpu_has_a_process_that_sees_it_alone(host):
    host(GPUS, 8)
    devices = training_devices(None)
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in devices] == ["GPU-0", "GPU-1"]
    assert [one.cores for one in devices] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_processes_share_gpus_in_turn(host):
    host(GPUS, 3)
    assert [one.name for one in training_devices(3)] == ["cuda:0", "cuda:1", "cuda:0"]
