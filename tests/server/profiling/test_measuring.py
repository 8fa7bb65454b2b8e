import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from profiled import CORES, CPU, GPU, OTHER, batches, member, profiled

from workers.spec import DeviceSpec


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
