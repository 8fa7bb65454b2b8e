"""The profiler's child process for real, and what becomes of it when the member misbehaves."""

import os
from contextlib import contextmanager

import psutil
import pytest
from arenas import arena_spec, ensemble, vector

from tests.workers.model_files import Affine, export, onnx_source, torch_source, write_onnx
from workers.profiler.energy import energy_meters
from workers.profiler.handle import (
    Compare,
    Compared,
    Loaded,
    Measure,
    Measured,
    MeasurePower,
    PowerMeasured,
    ProfilerError,
    ProfilerProcess,
)
from workers.runtime.spec import (
    Binding,
    BlockSpec,
    DeviceSpec,
    FakeOptions,
    InstanceSpec,
    ModelSignature,
    ModelSource,
    OutputSpec,
    TensorSpec,
)

PATIENCE_S = 60.0
CORES = tuple(sorted(os.sched_getaffinity(0))[:1])
DEVICE = DeviceSpec("cpu:0", "cpu-1", 1 << 30, CORES)


def fake(**options):
    return ModelSource("m", "fake", fake=FakeOptions({"x": (4,)}, 4, **options))


def profiling(source):
    arena = arena_spec(
        segments=2,
        views=(TensorSpec("x", "FP32", (4,)),),
        members=("m",),
        blocks=(BlockSpec((0,), "FP32", (4,)),),
        ensembles=(ensemble("m", (0,), output=vector(4)),),
    )
    signature = ModelSignature(arena.views, (vector(4),), 0)
    instance = InstanceSpec(0, 0, 8, source, signature, (Binding(0),), (OutputSpec(0, "values"),))
    return ProfilerProcess(DEVICE, instance, arena)


@contextmanager
def loaded(source):
    with profiling(source) as process:
        process.wait_reply(Loaded, PATIENCE_S)
        yield process


def measure(process, batch, timeout_s=PATIENCE_S):
    process.send(Measure(batch, 0.0))
    return process.wait_reply(Measured, timeout_s)


@pytest.mark.process
@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_what_loading_and_running_a_model_takes(backend, tmp_path):
    if backend == "onnx":
        source = onnx_source(write_onnx(tmp_path / "m.onnx"))
    else:
        source = torch_source(export(tmp_path / "m.pt2", Affine()))
    with profiling(source) as process:
        worker_bytes = process.wait_reply(Loaded, PATIENCE_S).worker_bytes
        one, eight = measure(process, 1), measure(process, 8)
    assert worker_bytes > 10 << 20  # an interpreter with NumPy
    assert (one.batch, eight.batch) == (1, 8)
    assert one.latency_s > 0
    assert eight.latency_s > 0
    # What the runtime took was there before; the model itself is next to nothing.
    assert 0 <= one.memory_bytes <= eight.memory_bytes < worker_bytes


@pytest.mark.process
def test_batch_sizes_are_run_in_turn(tmp_path):
    with loaded(onnx_source(write_onnx(tmp_path / "m.onnx"))) as process:
        process.send(Compare((2, 8), 0.0))
        two, eight = process.wait_reply(Compared, PATIENCE_S).latencies_s
    assert two > 0
    assert eight > 0


@pytest.mark.process
@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("raise", "RuntimeError: a fake member raised"),
        ("alloc", "out of memory: a fake member ran out of memory"),
        ("nan", "not a finite number in its output"),
        ("exit", "its process exited 13"),
    ],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_that_fails_is_not_run_in_halves(fail, reason, batch):
    with loaded(fake(fail=fail)) as process, pytest.raises(ProfilerError) as caught:
        measure(process, batch)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.process
def test_a_hanging_child_is_killed_in_the_end():
    with loaded(fake(fail="hang")) as process:
        child = psutil.Process(process._child.pid)
        with pytest.raises(TimeoutError):
            measure(process, 1, timeout_s=0.2)
        assert child.is_running()
    assert not child.is_running()


@pytest.mark.process
def test_a_killed_child_ran_out_of_memory():
    with loaded(fake(fail="hang")) as process:
        process.send(Measure(1, 0.0))
        process._child.kill()
        with pytest.raises(ProfilerError, match="out of memory"):
            process.wait_reply(Measured, PATIENCE_S)


@pytest.mark.process
def test_a_member_that_can_not_be_loaded(tmp_path):
    with (
        profiling(onnx_source(tmp_path / "absent.onnx")) as process,
        pytest.raises(ProfilerError, match="does not exist"),
    ):
        process.wait_reply(Loaded, PATIENCE_S)


@pytest.mark.process
def test_the_end_of_stdin_ends_the_child():
    with loaded(fake()) as process:
        process._child.stdin.close()
        assert process._child.wait(PATIENCE_S) == 0


@pytest.mark.process
def test_the_child_is_a_worker_that_dies_first_where_memory_is_short():
    with loaded(fake()) as process:
        child = psutil.Process(process._child.pid)
        assert tuple(child.cpu_affinity()) == CORES
        assert child.nice() == os.nice(0) + 5
        with open(f"/proc/{child.pid}/oom_score_adj") as file:
            assert file.read() == "1000\n"


@pytest.mark.process
@pytest.mark.parametrize("batch", [0, 8])
def test_the_power_of_a_device_is_told_where_the_host_tells_it(batch):
    with loaded(fake()) as process:
        process.send(MeasurePower(batch, 0.05))
        found = process.wait_reply(PowerMeasured, PATIENCE_S)
    if energy_meters(DEVICE):
        assert (found.watts > 0, found.source) == (True, "rapl")
    else:
        assert found == PowerMeasured(None, 0.0, "estimated")
