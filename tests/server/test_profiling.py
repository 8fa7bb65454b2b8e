import math
import os
from contextlib import AbstractContextManager
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import server.profiling
from server.compose import KnownMember
from server.config import Config
from server.errors import StartError
from server.profiling import profile_members
from tests.workers.model_files import write_onnx
from workers.profiler import Loaded, Measured, ProfilerError
from workers.spec import DeviceSpec, FakeOptions, ModelSignature, ModelSource, TensorSpec

MIB = 1 << 20
CORES = sorted(os.sched_getaffinity(0))
CPU = DeviceSpec("cpu:0", "cpu-1", 1 << 30, (CORES[0],))
OTHER = DeviceSpec("cpu:1", "cpu-1", 1 << 30, (CORES[-1],))
GPU = DeviceSpec("cuda:0", "NVIDIA H200", 100 << 30)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    directory = tmp_path / "cache"
    monkeypatch.setenv("ENSEMBLED_CACHE", str(directory))
    return directory / "profiles"


def member(name, path, *, elements=4, parameter_bytes=100, **section):
    config = Config.model_validate({"members": {name: {"model": {"recipe": "any"}, **section}}})
    x, y = TensorSpec("x", "FP32", (elements,)), TensorSpec("y", "FP32", (elements,))
    return KnownMember(
        name,
        config.members[name],
        ModelSource(name, "onnx", str(path)),
        ModelSignature((x,), y, parameter_bytes),
    )


def fake(name, **options):
    fields = {"inputs": {"x": [4]}, "outputs": 2, **options}
    config = Config.model_validate({"members": {name: {"model": "fake", "fake": fields}}})
    return KnownMember(
        name,
        config.members[name],
        ModelSource(name, "fake", fake=FakeOptions({"x": (4,)}, 2, options.get("sleep_ms", 0.0))),
        ModelSignature((TensorSpec("x", "FP32", (4,)),), TensorSpec("output", "FP32", (2,)), 0),
    )


def profiled(members, devices=(CPU,), *, batches=(1, 2, 4), **options):
    names = {one.name: {"model": {"recipe": "any"}} for one in members}
    config = Config.model_validate({"members": names, "placement": {"batch_sizes": list(batches)}})
    return profile_members(config, members, devices, **options)


class Script:
    """Stands in for the child processes: answers are given by batch, an exception is raised."""

    def __init__(self, answers, *, load=None, load_s=0.0, crowded=1.0):
        self.answers = answers
        self.now = 0.0
        self.load_s = load_s
        self.load = load
        self.crowded = crowded
        self.open = []
        self.started = []

    def __call__(self, device, instance, arena):
        self.started.append((instance.source.member, device.name))
        return _Actor(self, device.name)

    @property
    def measured(self):
        return [batch for _, batch in self.open]


class _Actor(AbstractContextManager):
    def __init__(self, script, device):
        self.script = script
        self.device = device

    def __exit__(self, *error):
        self.script = None

    def wait_loaded(self, timeout_s):
        assert timeout_s > 0
        self.script.now += min(self.script.load_s, timeout_s)
        if self.script.load_s > timeout_s:
            raise TimeoutError
        if self.script.load:
            raise self.script.load
        return Loaded(70 * MIB)

    def start(self, command):
        self.batch = command.batch
        self.script.open.append((self.device, command.batch))

    def wait_measured(self, timeout_s):
        assert 0 < timeout_s < math.inf
        answer = self.script.answers[self.batch]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        alone = self.script.open[-1][0] == self.script.open[0][0]
        return Measured(self.batch, answer * (1 if alone else self.script.crowded), MIB)


@pytest.fixture
def script(monkeypatch):
    def install(answers, **options):
        one = Script(answers, **options)
        monkeypatch.setattr(server.profiling, "ProfilerProcess", one)
        return one

    return install


@pytest.fixture
def model(tmp_path):
    return write_onnx(tmp_path / "m.onnx")


def batches(found, name="m", kind="cpu-1"):
    return list(found.profiles.of(name, kind))


@pytest.mark.process
def test_a_second_run_measures_nothing(model, script, cache):
    first = profiled([member("m", model)])
    assert batches(first)
    assert (first.measured, first.from_cache, first.missing) == (1, 0, ())
    assert first.worker_bytes["cpu-1"] > 10 * MIB
    assert first.colocation == {("m", "cpu-1"): 1.0}
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600

    nobody = script({})
    second = profiled([member("m", model)])
    assert nobody.started == []
    assert (second.measured, second.from_cache) == (0, 1)
    assert list(second.profiles) == list(first.profiles)
    assert second.worker_bytes == first.worker_bytes


@pytest.mark.process
@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_members_are_run_side_by_side(model):
    found = profiled([member("m", model)], [CPU, OTHER], batches=[1])
    assert found.colocation["m", "cpu-1"] >= 1.0
    assert profiled([member("m", model)], [CPU, OTHER], batches=[1]).from_cache == 1


@pytest.mark.process
def test_what_does_not_fit_is_missing_and_what_was_measured_stays(tmp_path):
    found = profiled([member("m", greedy(tmp_path / "m.onnx"))], batches=[1, 2, 128])
    assert batches(found) == [1, 2]
    ((name, kind, reason),) = found.missing
    assert (name, kind) == ("m", "cpu-1")
    assert reason.startswith("batch 128 and above: out of memory: ")


def greedy(path):
    """Write a model that needs n ** 6 floats for n rows."""
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], end=1),
        helper.make_node("Tile", ["n", "six"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "greedy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([6], np.int64), "six")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


def test_fakes_are_known_without_a_process(script):
    nobody = script({})
    found = profiled([fake("a", sleep_ms=5), fake("b", fail="alloc")], [CPU, GPU])
    assert nobody.started == []
    assert (found.measured, found.from_cache, found.missing, found.estimated) == (0, 0, (), ())
    assert [one.latency_s for one in found.profiles.of("a", "cpu-1").values()] == [0.00502] * 3
    assert batches(found, "b", "NVIDIA H200") == [1, 2, 4]
    assert found.worker_bytes == {}
    assert set(found.colocation.values()) == {1.0}


def test_a_damaged_file_of_the_cache_is_measured_anew(model, script, cache):
    script({1: 0.001})
    profiled([member("m", model)], batches=[1])
    (file,) = cache.iterdir()
    good = file.read_bytes()
    for damage in (b"", good[:-5], b"{}x", good.replace(b'"batch":1', b'"batch":3')):
        file.write_bytes(damage)
        found = profiled([member("m", model)], batches=[1])
        assert (found.measured, found.from_cache) == (1, 0)
        assert file.read_bytes() == good


def test_fresh_measures_what_was_measured_before(model, script):
    script({1: 0.001})
    profiled([member("m", model)], batches=[1])
    script({1: 0.002})
    found = profiled([member("m", model)], batches=[1], fresh=True)
    assert found.measured == 1
    assert (
        profiled([member("m", model)], batches=[1]).profiles.of("m", "cpu-1")[1].latency_s == 0.002
    )


def test_what_measurements_depend_on(model, script, tmp_path):
    script({1: 0.001, 2: 0.001})
    profiled([member("m", model)], batches=[1])
    assert profiled([member("renamed", model)], batches=[1]).from_cache == 1
    assert profiled([member("m", model)], batches=[1, 2]).from_cache == 0
    assert profiled([member("m", model, output="probabilities")], batches=[1]).from_cache == 0
    other = DeviceSpec("cpu:0", "cpu-2", 1 << 30, tuple(CORES))
    assert profiled([member("m", model)], [other], batches=[1]).from_cache == 0
    (tmp_path / "m.onnx.data").write_bytes(b"weights")
    assert profiled([member("m", model)], batches=[1]).from_cache == 0


def test_it_stops_where_more_rows_do_not_pay(model, script):
    one = script({1: 0.010, 2: 0.010, 4: 0.025, 8: 0.01})
    found = profiled([member("m", model)], batches=[8, 4, 2, 1])
    assert one.measured == [1, 2, 4, 4]  # what ends it is measured twice
    assert batches(found) == [1, 2, 4]
    assert found.missing == ()


def test_a_moment_in_which_others_were_busy_does_not_stop_it(model, script):
    script({1: 0.010, 2: [0.050, 0.015], 4: 0.020})
    found = profiled([member("m", model)])
    assert [one.latency_s for one in found.profiles] == [0.010, 0.015, 0.020]


def test_it_stops_after_a_long_batch(model, script):
    one = script({1: 1.5, 2: 2.5, 4: 4.0})
    assert batches(profiled([member("m", model)])) == [1, 2]
    assert one.measured == [1, 2]


def test_a_batch_that_hangs_ends_it(model, script):
    script({1: 0.01, 2: TimeoutError()})
    found = profiled([member("m", model)])
    assert batches(found) == [1]
    assert found.missing == (("m", "cpu-1", "batch 2 and above: its process hung"),)


def test_a_member_may_fail_on_some_kinds_only(model, script, monkeypatch):
    one = script({1: 0.01})
    refusing = Script({}, load=ProfilerError("onnxruntime can't use cuda:0"))
    monkeypatch.setattr(
        server.profiling,
        "ProfilerProcess",
        lambda device, *spec: (refusing if device.is_cuda else one)(device, *spec),
    )
    found = profiled([member("m", model)], [CPU, GPU], batches=[1])
    assert batches(found) == [1]
    assert found.missing == (("m", "NVIDIA H200", "onnxruntime can't use cuda:0"),)
    assert found.estimated == ()


def test_a_member_that_can_run_nowhere_is_an_error(model, script, cache):
    script({1: ProfilerError("its process died of SIGSEGV")})
    with pytest.raises(StartError) as caught:
        profiled([member("m", model), fake("a")])
    assert str(caught.value) == (
        "member 'm' can't run on any device: cpu-1: its process died of SIGSEGV"
    )
    assert not cache.exists() or not list(cache.iterdir())


def test_only_the_members_own_batch_size(model, script):
    script({3: 0.01})
    assert batches(profiled([member("m", model, batch_size=3)])) == [3]


def test_a_batch_that_takes_too_large_an_arena_is_left_out(model, script):
    one = script({1: 0.01, 16: 0.1})
    found = profiled([member("m", model, elements=MIB)], batches=[1, 16, 64])  # 4 MiB in, 8 out
    assert one.measured == [1]
    assert found.missing[0][2].startswith("batch 16 and above: ")
    with pytest.raises(StartError, match="batch 64 and above"):
        profiled([member("m", model, elements=MIB)], batches=[64])


def test_members_slow_each_other_down_on_devices_of_a_kind(model, script):
    one = script({1: 0.010, 2: 0.012}, crowded=1.5)
    found = profiled([member("m", model)], [CPU, OTHER], batches=[1, 2])
    assert found.colocation == {("m", "cpu-1"): pytest.approx(1.5)}
    assert {batch for device, batch in one.open if device == "cpu:1"} == {2}  # the best one
    assert profiled([member("m", model)], [CPU, OTHER], batches=[1, 2]).from_cache == 1
    # With another number of devices the latencies stay.
    one.open.clear()
    alone = profiled([member("m", model)], [CPU], batches=[1, 2])
    assert (alone.from_cache, one.open) == (1, [])


def test_gpus_do_not_disturb_each_other(model, script):
    one = script({1: 0.01})
    found = profiled([member("m", model)], [GPU, DeviceSpec("cuda:1", GPU.kind, 1)], batches=[1])
    assert one.started == [("m", "cuda:0")]
    assert found.colocation == {("m", GPU.kind): 1.0}


def test_without_time_everything_is_estimated(model, script, cache):
    nobody = script({})
    heavy = member("heavy", model, parameter_bytes=20 * MIB)
    found = profiled([member("m", model), heavy], [CPU, GPU], batches=[1, 4, 32, 64], budget_s=0)
    assert nobody.started == []
    assert not cache.exists() or not list(cache.iterdir())
    assert set(found.estimated) == {(m, k) for m in ("m", "heavy") for k in ("cpu-1", GPU.kind)}
    assert (found.measured, found.from_cache, found.missing) == (0, 0, ())
    assert batches(found) == [1, 4, 32]
    assert batches(found, "heavy") == [1, 4]
    assert batches(found, "heavy", GPU.kind) == [1, 4, 32]
    four = found.profiles.of("heavy", "cpu-1")[4]
    assert four.memory_bytes == 40 * MIB + 4 * 32 * 16
    assert four.latency_s > found.profiles.of("heavy", GPU.kind)[4].latency_s


def test_estimates_go_by_what_was_measured_on_this_kind(model, script):
    script({1: 0.1})
    small = member("m", model, parameter_bytes=MIB)
    large = member("large", write_onnx(model.with_name("n.onnx"), operator="Neg"),
                   parameter_bytes=10 * MIB)  # fmt: skip
    profiled([small], batches=[1])
    found = profiled([small, large], batches=[1], budget_s=0)
    assert found.estimated == (("large", "cpu-1"),)
    assert found.profiles.of("large", "cpu-1")[1].latency_s == pytest.approx(1.0, rel=0.01)


def test_what_was_measured_in_time_is_kept_and_carried_on_later(model, script):
    one = script({1: 0.5, 2: 0.9, 4: 1.6})
    first = profiled([member("m", model)], budget_s=5)  # batch 2 would take 6 s more
    assert one.measured == [1]
    assert (batches(first), first.estimated, first.measured) == ([1], (), 1)
    one.started.clear()
    assert profiled([member("m", model)], budget_s=5).measured == 0
    assert one.started == []  # nothing would come of it
    second = profiled([member("m", model)])
    assert one.measured == [1, 2, 4]
    assert (batches(second), second.measured, second.from_cache) == ([1, 2, 4], 1, 0)


def test_progress_names_what_is_being_done(model, script):
    script({1: 0.01})
    said = []
    members = [member("m", model), fake("a")]
    profiled(members, batches=[1], on_progress=lambda *what: said.append(what))
    assert said == [
        ("m on cpu-1: loading", 0, 1),
        ("m on cpu-1: batch 1", 0, 1),
        ("done", 1, 1),
    ]
    said.clear()
    profiled(members, batches=[1], on_progress=lambda *what: said.append(what))
    assert said == []


def test_the_smallest_batch_may_take_more_than_its_share(model, script, monkeypatch):
    one = script({1: 0.01, 2: 0.01}, load_s=25.0)
    monkeypatch.setattr(server.profiling, "time", SimpleNamespace(monotonic=lambda: one.now))
    members = [member("m", model), member("n", model, output="probabilities")]
    found = profiled(members, batches=[1, 2], budget_s=40)
    assert one.started == [("m", "cpu:0"), ("n", "cpu:0")]
    assert batches(found) == [1]
    assert one.now == 40.0
    assert found.estimated == (("n", "cpu-1"),)  # it did not hang, the time was over
    assert found.missing == ()
