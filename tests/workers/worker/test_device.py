"""How a worker finds its device, and nothing but its device."""

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from workers.runtime.spec import DeviceSpec, MemorySpec, WorkerSpec
from workers.worker import host_memory

ROOT = Path(__file__).parents[3]
SLICE = DeviceSpec("cuda:5", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 1 << 30, uuid="MIG-5c0e")


@pytest.mark.parametrize(
    ("device", "environment"),
    [
        (SLICE, {"CUDA_VISIBLE_DEVICES": "MIG-5c0e"}),
        (DeviceSpec("cuda:5", "V100", 1 << 30), {}),
        (DeviceSpec("a", "cpu-2", 1 << 30, cores=(0, 3)), {"OMP_NUM_THREADS": "2"}),
        (DeviceSpec("cpu:0", "cpu", 0), {}),
    ],
)
def test_the_environment_of_a_device(device, environment):
    assert device.environment == environment


def test_a_process_that_sees_one_gpu_counts_it_as_the_first():
    assert SLICE.cuda_index == 0
    assert DeviceSpec("cuda:5", "V100", 1 << 30).cuda_index == 5


@pytest.mark.process
def test_a_worker_sees_its_gpu_alone_before_it_imports_a_runtime():
    code = """
import os, sys
import msgspec
from workers.worker import process as predictor
from workers.runtime.spec import WorkerSpec

class Worker:
    def __init__(self, *_):
        runtimes = sorted({"torch", "onnxruntime"} & set(sys.modules))
        print(os.environ["CUDA_VISIBLE_DEVICES"], runtimes, flush=True)
        os._exit(0)

predictor.Worker = Worker
spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerSpec)
predictor._run(spec, sys.stdin.buffer, None)
"""
    spec = WorkerSpec(SLICE, 1, (), MemorySpec(0, 0, ()), "")
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdin.write(msgspec.json.encode(spec) + b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"MIG-5c0e []\n"
    assert child.returncode == 0


class Runtime:
    """CUDA's runtime library; `status` is what registering memory answers."""

    def __init__(self, status):
        self.status = status
        self.chosen = []

    def cudaSetDevice(self, index):
        self.chosen.append(index)
        return 0

    def cudaHostRegister(self, address, size, flags):
        return self.status


@pytest.mark.parametrize(("status", "pinned_it"), [(0, True), (2, False)])
def test_the_arena_is_pinned_for_the_workers_gpu(monkeypatch, caplog, status, pinned_it):
    runtime = Runtime(status)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: runtime)
    with mmap.mmap(-1, 4096) as buffer:
        assert host_memory.pin_for_device(buffer, SLICE) == pinned_it
    assert runtime.chosen == [0]
    assert ("for cuda:5: CUDA error 2" in caplog.text) != pinned_it
