"""Counts what an ONNX model does to predict a row: its arithmetic, traffic and kernels.

Runs in the inspecting child. The events of onnxruntime's profiler flow in, which have the shapes
that every node really had, after all fusions and whatever the exporter; a `Work` flows out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from workers.runtime.spec import Work

__all__ = ["count_work"]

_KERNEL = "_kernel_time"
_PRODUCTS = ("MatMul", "Gemm")
#: Dimensions of a batch of one-dimensional signals, the smallest that is convolved.
_CONVOLVED = 3


def count_work(events: Iterable[Mapping[str, Any]], rows: int) -> Work:
    """Return the work of a row.

    A multiplication with its addition are two operations. Of products alone these are counted:
    convolutions and matrix products of any precision, which take nearly all of a network's time.

    Args:
        events: of the profile of one run.
        rows: of its batch.
    """
    kernels = [
        event["args"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
    ]
    moved = [int(one["activation_size"]) + int(one["output_size"]) for one in kernels]
    return Work(
        flops=sum(map(_flops, kernels)) / rows,
        moved_bytes=sum(moved) / rows,
        peak_bytes=max(moved, default=0) / rows,
        kernels=len(kernels),
    )


def _flops(kernel: Mapping[str, Any]) -> float:
    """The operations of a node by the shapes of its inputs and outputs."""
    inputs, outputs = (_shapes(kernel[f"{end}_type_shape"]) for end in ("input", "output"))
    if not inputs or not outputs:
        return 0.0
    operator = kernel["op_name"]
    if "Conv" in operator:
        # Filters are [out, in / groups, ...], also where scales precede them; transposed
        # convolutions have one product with them per element of the input.
        filters = next((one for one in inputs[1:] if len(one) >= _CONVOLVED), ())
        at = inputs[0] if "Transpose" in operator else outputs[0]
        return 2.0 * prod(at) * prod(filters[1:])
    if any(name in operator for name in _PRODUCTS):
        return 2.0 * prod(outputs[0]) * (inputs[0][-1] if inputs[0] else 1)
    return 0.0


def _shapes(tensors: Iterable[Mapping[str, list[int]]]) -> list[list[int]]:
    return [shape for tensor in tensors for shape in tensor.values()]
