"""Small model files for tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from workers.runtime.spec import DeviceSpec, ModelSource

CPU = DeviceSpec("cpu:0", "cpu-1", memory_bytes=1 << 30, cores=(0,))


def write_onnx(
    path: Path,
    *,
    shape: Sequence[object] = ("n", 4),
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    operator: str = "Identity",
) -> Path:
    """Write a model whose outputs are all `operator` of its input ``x``."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], [name]) for name in outputs],
        "small",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


def write_reshaping_onnx(path: Path, target: Sequence[int]) -> Path:
    """Write a model that reshapes ``x`` [n, 4] to a fixed shape."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "target"], ["y"])],
        "reshaping",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(target, np.int64), "target")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


def write_bf16_onnx(path: Path, *, output: int = TensorProto.FLOAT) -> Path:
    """Write a model that negates ``x`` [n, 4] in BF16 and adds ``z`` [n, 4]."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["z", "wide"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=output),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["n", 4]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4]),
    ]
    outputs = [helper.make_tensor_value_info("y", output, None)]
    graph = helper.make_graph(nodes, "bf16", inputs, outputs)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


def write_text_onnx(
    path: Path,
    *,
    outputs: Sequence[str] = ("logits",),
    symbol: str = "seq",
    seed: int = 0,
    classes: int = 3,
    mask: bool = True,
) -> Path:
    """Write a text model: INT64 ``input_ids`` and, by default, ``attention_mask`` [n, symbol].

    ``tokens`` [n, symbol, classes] are whole numbers for each id of 0 to 99, masked; ``logits``
    [n, classes] are their means over what is not masked: exact for any padding.
    """
    table = np.random.default_rng(seed).integers(-8, 9, (100, classes)).astype(np.float32)
    constants = [numpy_helper.from_array(table, "table")]
    constants.append(numpy_helper.from_array(np.array([2], np.int64), "last"))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "first"))
    own = [] if mask else [helper.make_node("Add", ["input_ids", "large"], ["ones"])]
    if not mask:  # a mask of ones, of the same shape
        constants.append(numpy_helper.from_array(np.array([1000], np.int64), "large"))
        own.append(helper.make_node("Sign", ["ones"], ["attention_mask"]))
    nodes = [
        *own,
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["tokens"]),
        helper.make_node("ReduceSum", ["tokens", "first"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["column", "first"], ["counts"], keepdims=0),
        helper.make_node("Div", ["sums", "counts"], ["logits"]),
    ]
    names = ("input_ids", "attention_mask") if mask else ("input_ids",)
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info(one, TensorProto.INT64, ["n", symbol]) for one in names],
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, None) for one in outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


def write_hashing_onnx(path: Path) -> Path:
    """Write a model of texts ``x`` [n, 2]: 1.0 where one is ``yes``."""
    mapping = helper.make_node(
        "LabelEncoder",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        keys_strings=["yes"],
        values_floats=[1.0],
        default_float=0.0,
    )
    graph = helper.make_graph(
        [mapping],
        "texts",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


def write_external_onnx(path: Path, locations: Sequence[str], *, hidden: bool = False) -> Path:
    """Write a model that adds a tensor of FP32 [1, 4] at each location to ``x`` [n, 4].

    The files of the tensors are written, too, unless a name begins with ``missing``. If `hidden`,
    the tensors are attributes of constants in the branches of a condition.
    """
    raw = np.ones((1, 4), np.float32).tobytes()
    tensors = []
    for number, location in enumerate(locations):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[1, 4])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
        if not Path(location).name.startswith("missing"):
            file = path.parent / location
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(raw)
    sums = ["x", *(f"s{number}" for number in range(len(tensors)))]
    nodes = [
        helper.make_node("Add", [sums[number], tensor.name], [sums[number + 1]])
        for number, tensor in enumerate(tensors)
    ]
    if hidden:
        constants = [helper.make_node("Constant", [], [one.name], value=one) for one in tensors]
        branch = helper.make_graph(
            [*constants, *nodes],
            "branch",
            [],
            [helper.make_tensor_value_info(sums[-1], TensorProto.FLOAT, None)],
        )
        always = helper.make_tensor("always", TensorProto.BOOL, [], [True])
        nodes = [
            helper.make_node("Constant", [], ["always"], value=always),
            helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch),
        ]
        tensors, sums = [], ["y"]
    graph = helper.make_graph(
        nodes,
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(sums[-1], TensorProto.FLOAT, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    path.write_bytes(model.SerializeToString())
    return path


def onnx_source(path: Path, *, output_name: str = "") -> ModelSource:
    return ModelSource("m", "onnx", str(path), outputs=(output_name,) if output_name else ())


def torch_source(path: Path, **fields: object) -> ModelSource:
    return ModelSource("m", "torch", str(path), **fields)  # type: ignore[arg-type]


class Affine(torch.nn.Module):
    """y = 2 x + 1, with a parameter, a buffer and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((4,), 2.0))
        self.register_buffer("one", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor + self.one


def export(
    path: Path,
    module: torch.nn.Module,
    *,
    shape: tuple[int, ...] = (3, 4),
    dynamic: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a module of one input as an exported program."""
    batch = ({0: torch.export.Dim("n")},) if dynamic else None
    program = torch.export.export(module, (torch.zeros(shape, dtype=dtype),), dynamic_shapes=batch)
    torch.export.save(program, path)
    return path


def quietly(make: Callable[[], None]) -> None:
    """Do something that torch deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make()
