import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from profiled import CORES, CPU, GPU, OTHER, batches, member, profiled

from server.profiling import profiler
from server.profiling.comparison import LEAST_BLOCKS
from workers.profiler.handle import ProfilerError
from workers.runtime.spec import DeviceSpec


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


def test_batch_sizes_that_may_be_the_best_are_compared(model, script):
    one = script({1: 0.012, 2: 0.020, 4: 0.039, 8: 0.100})
    found = profiled([member("m", model)], batches=[1, 2, 4, 8])
    assert one.measured == [1, 2, 4, 8, 8]
    assert set(one.compared) == {(2, 4)}
    assert found.noise == {("m", "cpu-1"): {2: 0.0, 4: 0.0}}
    assert [one.latency_s for one in found.profiles] == pytest.approx([0.012, 0.02, 0.039, 0.1])
    one.compared.clear()
    again = profiled([member("m", model)], batches=[1, 2, 4, 8])
    assert (one.compared, again.noise) == ([], found.noise)
    assert list(again.profiles) == list(found.profiles)


def test_what_was_not_compared_is_as_slow_as_the_machine_was_meanwhile(model, script):
    script({1: 0.012, 2: [0.020, 0.040], 4: [0.039, 0.078]})
    found = profiled([member("m", model)], batches=[1, 2, 4])
    assert [one.latency_s for one in found.profiles] == pytest.approx([0.024, 0.040, 0.078])


def test_noise_is_measured_for_longer(model, script, monkeypatch):
    generator = np.random.default_rng(0)

    def noisy():
        return 0.019 * float(np.exp(generator.normal(0, 0.02)))

    monkeypatch.setattr(profiler, "_COMPARING_S", 60.0)
    one = script({1: 0.010, 2: noisy})
    found = profiled([member("m", model)], batches=[1, 2])
    assert len(one.compared) > 2 * LEAST_BLOCKS
    assert 0 < max(found.noise["m", "cpu-1"].values()) <= 0.003


@pytest.mark.parametrize("failure", [TimeoutError(), ProfilerError("its process died")])
def test_a_comparison_that_fails_is_tried_again_another_time(model, script, failure):
    one = script({1: 0.010, 2: [0.020, failure]})
    found = profiled([member("m", model)], batches=[1, 2])
    assert (batches(found), found.noise, found.missing) == ([1, 2], {}, ())
    one.answers[2] = 0.020
    assert profiled([member("m", model)], batches=[1, 2]).noise
    assert one.measured == [1, 2]
