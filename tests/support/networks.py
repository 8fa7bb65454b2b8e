"""Small networks as ONNX files, for servers that shall serve more than fakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "UINT8": TensorProto.UINT8,
    "INT64": TensorProto.INT64,
}
DTYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


def write_network(
    path: Path,
    nodes: list[tuple[str, list[str], str, dict[str, Any]]],
    *,
    x: tuple[str, list[Any]],
    outputs: dict[str, str],
    constants: dict[str, np.ndarray] | None = None,
    more: dict[str, tuple[str, list[Any]]] | None = None,
) -> str:
    """Write a network of the input ``x``, or of several, and return its file's name.

    Args:
        path: where to.
        nodes: operator, inputs, output, attributes.
        x: datatype and shape without the batch of the input.
        more: the same of further inputs by name.
        outputs: names, with their datatypes.
        constants: by name.
    """
    graph = helper.make_graph(
        [
            helper.make_node(operator, inputs, [output], **attributes)
            for operator, inputs, output, attributes in nodes
        ],
        "network",
        [
            helper.make_tensor_value_info(name, KINDS[kind], ["n", *shape])
            for name, (kind, shape) in {"x": x, **(more or {})}.items()
        ],
        [helper.make_tensor_value_info(name, KINDS[kind], None) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path.name


def write_linear(path: Path, weights: np.ndarray, *, datatype: str = "FP32") -> str:
    """Write ``y = x @ weights`` that computes in a type, and return its file's name."""
    return write_network(
        path,
        [("MatMul", ["x", "w"], "y", {})],
        x=(datatype, [len(weights)]),
        outputs={"y": datatype},
        constants={"w": weights.astype(DTYPES[datatype])},
    )
