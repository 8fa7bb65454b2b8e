import mmap
import os

import pytest

from workers.profiler.gauges import ResidentGauge, memory_gauge
from workers.runtime.memory import create_memory
from workers.runtime.spec import DeviceSpec

MIB = 1 << 20
SIZE = 64 * MIB
SLACK = 8 * MIB


def touched(*, shared):
    """Return memory that is resident; closing it gives it back."""
    fd = create_memory(SIZE) if shared else -1
    flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(fd, SIZE, flags=flags)
    if shared:
        os.close(fd)
    for page in range(0, SIZE, mmap.PAGESIZE):
        memory[page] = 1
    return memory


def test_a_cpu_is_gauged_by_what_is_resident():
    assert isinstance(memory_gauge(DeviceSpec("cpu:0", "cpu-1", SIZE, (0,))), ResidentGauge)


def test_what_is_taken_and_given_back():
    gauge = ResidentGauge()
    before = gauge.now()
    memory = touched(shared=False)
    assert abs(gauge.now() - before - SIZE) < SLACK
    memory.close()
    assert abs(gauge.now() - before) < SLACK


def test_the_peak_remembers_what_was_given_back():
    gauge = ResidentGauge()
    gauge.reset_peak()
    if not gauge._has_peak:
        pytest.skip("this system does not let a process restart its peak")
    before = gauge.now()
    touched(shared=False).close()
    assert abs(gauge.peak() - before - SIZE) < SLACK
    gauge.reset_peak()
    assert abs(gauge.peak() - before) < SLACK


def test_the_arena_is_nobodys():
    gauge = ResidentGauge()
    before = gauge.now()
    memory = touched(shared=True)
    assert abs(gauge.now() - before) < SLACK
    memory.close()
