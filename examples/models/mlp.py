"""Recipes of five tiny networks with random weights, to measure the server's overhead.

Each takes ``x``, FP32 [n, 784], and returns ``probabilities``, FP32 [n, 10]; they differ in the
width of their hidden layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["mlp_0", "mlp_1", "mlp_2", "mlp_3", "mlp_4"]

_INPUTS, _OUTPUTS = 784, 10
_HIDDEN = (64, 80, 96, 112, 128)

# Old enough for every onnxruntime that we support.
_IR_VERSION, _OPSET = 8, 17


def _write(index: int, path: Path, report: Callable[[str], None]) -> None:
    report("writing")
    onnx.save(_network(index), path)


def _network(index: int) -> onnx.ModelProto:
    hidden = _HIDDEN[index]
    random = np.random.default_rng(index)
    weights = {
        "w1": random.normal(0, _INPUTS**-0.5, (_INPUTS, hidden)),
        "b1": random.normal(0, 0.1, hidden),
        "w2": random.normal(0, hidden**-0.5, (hidden, _OUTPUTS)),
        "b2": random.normal(0, 0.1, _OUTPUTS),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        f"mlp_{index}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", _INPUTS])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", _OUTPUTS])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[opset])


mlp_0, mlp_1, mlp_2, mlp_3, mlp_4 = (partial(_write, index) for index in range(5))
