"""Which worker is said to leak."""

import os

import pytest

from server.supervision import memory_watch
from server.supervision.memory_watch import MemoryWatch, private_bytes
from workers.runtime.spec import DeviceSpec

RAM = [DeviceSpec(f"cpu:{i}", "cpu-1", 1000, (i,), pool="ram") for i in range(2)]
OWN = DeviceSpec("own", "cpu-1", 100, (2,), virtual=True)
GPU = DeviceSpec("cuda:0", "H200", 100)


@pytest.fixture
def taken(monkeypatch):
    """Memory by process."""
    memory: dict[int, int] = {}
    monkeypatch.setattr(memory_watch, "private_bytes", memory.__getitem__)
    return memory


def test_the_one_that_grew_is_named_when_the_budget_is_exceeded(taken):
    watch = MemoryWatch([*RAM, OWN, GPU])
    pids = {"cpu:0": 1, "cpu:1": 2, "own": 3, "cuda:0": 4}
    taken.update({1: 400, 2: 500, 3: 50, 4: 10**6})
    for pid in taken:
        watch.record_up(pid)
    assert watch.find_leaking(pids) is None
    taken[1] = 700
    assert watch.find_leaking(pids) == ("cpu:0", 700, 1000)
    taken[1] = 500
    assert watch.find_leaking(pids) is None
    taken[3] = 101
    assert watch.find_leaking(pids) == ("own", 101, 100)


def test_too_much_from_the_beginning_is_no_leak(taken):
    watch = MemoryWatch([OWN])
    taken.update({1: 150, 2: 150})
    watch.record_up(1)
    assert watch.find_leaking({"own": 1}) is None
    taken[1] = 170
    assert watch.find_leaking({"own": 1}) is None
    taken[1] = 180
    assert watch.find_leaking({"own": 2}) is None  # it is starting, and takes what it takes
    watch.record_up(2)
    assert watch.find_leaking({"own": 2}) is None
    taken[2] = 180
    assert watch.find_leaking({"own": 2}) == ("own", 180, 100)
    assert watch.find_leaking({}) is None


def test_a_process_takes_memory():
    before = private_bytes(os.getpid())
    held = bytearray(os.urandom(1 << 20) * 32)
    assert private_bytes(os.getpid()) - before > 16 << 20
    del held
    assert private_bytes(2**30) == 0
