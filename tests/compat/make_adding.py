"""Write networks that add a number to their input ``x``, FP32 [n, 2].

Runs in the project's environment: ``python make_adding.py FILE.onnx NUMBER [FILE NUMBER ...]``.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_adding(path: str, number: float) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "number"], ["y"])],
        "adding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.float32(number), "number")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)


if __name__ == "__main__":
    for path, number in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        write_adding(path, float(number))
