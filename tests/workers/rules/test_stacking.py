import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.workers.model_files import write_onnx
from workers.rules.catalogue import RuleError
from workers.rules.combination import Stack, meta_inputs
from workers.runtime.spec import ModelSource

MEMBERS, ROWS, OUTPUTS = 3, 4, 2


def linear(path, shape, coefficients, kind=TensorProto.FLOAT):
    """A model that flattens its input [n, *shape] and multiplies it with a matrix."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "a"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", kind, ("n", *shape))],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(coefficients, "a")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return ModelSource("meta", "onnx", str(path))


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("shape", [(MEMBERS * OUTPUTS,), (MEMBERS, OUTPUTS)])
def test_stacking(tmp_path, shape, kind):
    dtype = {"FLOAT": np.float32, "DOUBLE": np.float64}[kind]
    generator = np.random.default_rng(0)
    coefficients = generator.normal(size=(MEMBERS * OUTPUTS, 5)).astype(dtype)
    source = linear(tmp_path / "meta.onnx", shape, coefficients, getattr(TensorProto, kind))
    predictions = generator.random((MEMBERS, 2 * ROWS, OUTPUTS)).astype(np.float32)[:, ::2]
    out = np.zeros((ROWS, 5), dtype)
    Stack(source, MEMBERS).for_members(range(MEMBERS))([predictions], [out])
    wanted = [
        np.concatenate([predictions[m, row] for m in range(MEMBERS)]) @ coefficients
        for row in range(ROWS)
    ]
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)


def test_it_needs_all_members(tmp_path):
    coefficients = np.ones((MEMBERS * OUTPUTS, 1), np.float32)
    stack = Stack(linear(tmp_path / "meta.onnx", (6,), coefficients), MEMBERS)
    with pytest.raises(RuleError, match="it needs all 3 members, there are 2"):
        stack.for_members([0, 2])


def test_not_a_number_is_a_failure(tmp_path):
    write_onnx(tmp_path / "meta.onnx", shape=("n", 3), operator="Log")
    stack = Stack(ModelSource("meta", "onnx", str(tmp_path / "meta.onnx")), 3)
    out = np.zeros((1, 3), np.float32)
    apply = stack.for_members(range(3))
    apply([np.ones((3, 1, 1), np.float32)], [out])
    assert (out == 0).all()
    with pytest.raises(RuleError, match="NaN in the meta-model's answer"):
        apply([-np.ones((3, 1, 1), np.float32)], [out])
    with pytest.raises(RuleError, match=r"answered \[1, 3\], not \[1, 2\]"):
        apply([np.ones((3, 1, 1), np.float32)], [out[:, :2]])


def test_a_model_that_can_not_be_loaded(tmp_path):
    with pytest.raises(RuleError, match="does not exist"):
        Stack(ModelSource("meta", "onnx", str(tmp_path / "none.onnx")), 3)


def test_what_a_meta_model_may_take():
    assert meta_inputs(3, (10,)) == ((30,), (3, 10))
    assert meta_inputs(3, ()) == ((3,), (3,))
    assert meta_inputs(2, (4, 5)) == ((40,), (2, 4, 5))
