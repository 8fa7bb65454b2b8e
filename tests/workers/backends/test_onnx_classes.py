"""Classical ONNX models, as converters of scikit-learn and of boosted trees write them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workers import backends
from workers.runtime.spec import DeviceSpec, ModelSource

CPU = DeviceSpec("cpu:0", "cpu", memory_bytes=0)
COEFFICIENTS = np.array([[1, 0], [0, 1], [-1, -1]], np.float32)


def write_classifier(path, classes):
    """A linear classifier of two columns, with the outputs `label` and `probabilities` (a map)."""
    are_texts = isinstance(classes[0], str)
    labels = {"classlabels_strings" if are_texts else "classlabels_ints": classes}
    keys = {"classlabels_strings" if are_texts else "classlabels_int64s": classes}
    classify = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=COEFFICIENTS.ravel().tolist(),
        intercepts=[0.0, 0.0, 0.0],
        multi_class=1,
        post_transform="SOFTMAX",
        **labels,
    )
    name = helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **keys)
    kind = TensorProto.STRING if are_texts else TensorProto.INT64
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    )
    graph = helper.make_graph(
        [classify, name],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 2))],
        [
            helper.make_tensor_value_info("label", kind, ("n",)),
            helper.make_value_info("probabilities", maps),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


def load(path, *outputs):
    return backends.load(ModelSource("m", "onnx", str(path), outputs=outputs), CPU)


@pytest.mark.parametrize("classes", [["ape", "bee", "cat"], [3, 5, 9]])
def test_maps_are_probabilities_in_the_order_of_their_labels(tmp_path, classes):
    """They are chosen by themselves: what is beside them are labels."""
    model = load(write_classifier(tmp_path / "m.onnx", classes))
    signature = model.signature
    assert (signature.output.name, signature.output.shape) == ("probabilities", (3,))
    assert signature.labels == {"probabilities": tuple(map(str, classes))}
    assert signature.kinds == {"probabilities": "probabilities"}
    x = np.array([[0.5, 2], [3, -1]], np.float32)
    (found,) = model.predict([x])
    powers = np.exp(x @ COEFFICIENTS.T)
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
    assert found.dtype == np.float32


def test_labels_are_served_as_numbers_only(tmp_path):
    path = write_classifier(tmp_path / "m.onnx", [3, 5, 9])
    label, shares = load(path, "label", "probabilities").predict([np.eye(2, dtype=np.float32)])
    assert label.tolist() == [3, 5]
    assert shares.shape == (2, 3)
    path = write_classifier(tmp_path / "t.onnx", ["ape", "bee", "cat"])
    with pytest.raises(backends.ModelError, match=r"'label' is text.* use the output 'probabili"):
        load(path, "label")
