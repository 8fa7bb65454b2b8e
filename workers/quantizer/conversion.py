"""Converts ONNX models to int8 and FP16, by ONNX Runtime's own tools.

Runs in the child that makes a copy. A `CopyTask` flows in, the file of the copy comes to be.

Static quantization writes pairs of QuantizeLinear and DequantizeLinear (QDQ) around what runs in
int8: weights are signed, with a scale per channel, activations unsigned, which is what the dot
products of x86 (VNNI, AMX) multiply; their ranges are the smallest and the largest values in the
calibration rows. Dynamic quantization finds the ranges in each batch, and leaves convolutions as
they are: those with such ranges are slower than in FP32. See Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (CVPR 2018).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.registry import IntegerOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from workers.backends.onnx_file import external_files
from workers.quantizer.copies import CopyTask

__all__ = ["convert"]

#: Rows that the model runs at once while ranges are found.
_BATCH_ROWS = 8
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_NARROW = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16}


class _Rows:
    """The calibration rows of a task, batch by batch, as ONNX Runtime asks for them."""

    def __init__(self, task: CopyTask) -> None:
        with np.load(task.calibration, allow_pickle=False) as held:
            arrays = [held[name] for name in held.files]
        self._arrays = dict(zip(task.inputs, arrays, strict=True))
        self._starts = iter(range(0, len(next(iter(self._arrays.values()))), _BATCH_ROWS))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the model's names of its inputs, None after the last."""
        start = next(self._starts, None)
        if start is None:
            return None
        return {name: one[start : start + _BATCH_ROWS] for name, one in self._arrays.items()}


def convert(task: CopyTask) -> None:
    """Make a copy.

    Raises:
        ValueError: if the model has nothing to convert.
        Exception: whatever ONNX Runtime's tools raise.
    """
    is_large = bool(external_files(Path(task.model)))
    if task.precision == "fp16":
        # By its path, since the sizes within a large model are found in its file.
        halved = convert_float_to_float16(task.model, keep_io_types=True)
        weights = f"{Path(task.output).name}.data"
        onnx.save(halved, task.output, save_as_external_data=is_large, location=weights)
    else:
        with tempfile.TemporaryDirectory(dir=Path(task.output).parent) as directory:
            prepared = Path(directory, "prepared.onnx")
            _prepare(task.model, prepared, is_large=is_large)
            _quantize(task, prepared, is_large=is_large)
    if _narrow_weights(task.output) <= _narrow_weights(task.model):
        raise ValueError(f"it has nothing that could become {task.precision}")


def _prepare(model: str, prepared: Path, *, is_large: bool) -> None:
    """Infer shapes and fold what is constant; symbolic inference can't do with every operator."""
    try:
        quant_pre_process(model, prepared, save_as_external_data=is_large)
    except ModuleNotFoundError:
        raise
    except Exception:
        quant_pre_process(model, prepared, skip_symbolic_shape=True, save_as_external_data=is_large)


def _quantize(task: CopyTask, prepared: Path, *, is_large: bool) -> None:
    shared: dict[str, Any] = {
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "use_external_data_format": is_large,
    }
    if task.precision == "int8":
        quantize_static(
            prepared,
            task.output,
            _Rows(task),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            **shared,
        )
        return
    operators = sorted(IntegerOpsRegistry.keys() - _CONVOLUTIONS)
    quantize_dynamic(prepared, task.output, op_types_to_quantize=operators, **shared)


def _narrow_weights(path: str) -> int:
    """The number of weights in a type of one or two bytes."""
    graph = onnx.load(path, load_external_data=False).graph
    return sum(tensor.data_type in _NARROW for tensor in graph.initializer)
