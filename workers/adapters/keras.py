"""Keras' models, from `.keras` files, run by Keras with torch.

Runs in workers and in inspection. A tensor per input of the model flows in, under the input's name;
one per output flows out, under the output's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ensembled_client.wire import datatype_of

os.environ["KERAS_BACKEND"] = "torch"  # read at import

import keras

from workers.adapters import AdapterError
from workers.adapters.formats import wrong_format

Array = npt.NDArray[Any]

__all__ = ["KerasModel"]


class KerasModel:
    """A model with any number of inputs and outputs, whose file holds no code."""

    def __init__(self, *, path: str) -> None:
        self._path = Path(path)

    def load(self, device: str) -> None:
        """Open the file.

        Raises:
            AdapterError: if it is no such model, or holds code.
        """
        if wrong := wrong_format(self._path, "keras"):
            raise AdapterError(wrong)
        self._device = device
        with keras.device(device):
            self._model = _open(self._path)
        self.inputs = {
            tensor.name: (
                datatype_of(np.dtype(tensor.dtype)),
                [f"{tensor.name}.{i}" if size is None else size for i, size in _row(tensor)],
            )
            for tensor in self._model.inputs
        }
        # A sequential model has neither the structure of its inputs nor names of outputs.
        self._structure = getattr(self._model, "input", self._model.inputs[0])
        last = self._model.layers[-1].name
        self._outputs = list(getattr(self._model, "output_names", None) or [last])
        self.output = {name: self._kind(name) for name in self._outputs}

    def predict(self, **arrays: Array) -> dict[str, Array]:
        """Return each output for a batch."""
        with keras.device(self._device), torch.inference_mode():
            flat = [keras.ops.convert_to_tensor(arrays[name]) for name in self.inputs]
            result = self._model(keras.tree.pack_sequence_as(self._structure, flat))
            if not isinstance(result, dict):
                result = dict(zip(self._outputs, keras.tree.flatten(result), strict=True))
            return {name: keras.ops.convert_to_numpy(one) for name, one in result.items()}

    def _kind(self, output: str) -> str:
        """Probabilities for an output whose layer ends in a softmax; its layer has its name."""
        layers = {layer.name: layer for layer in self._model.layers}
        activation = getattr(layers.get(output), "activation", None)
        return "probabilities" if activation is keras.activations.softmax else "values"


def _row(tensor: Any) -> list[tuple[int, int | None]]:
    """The dimensions of a tensor behind the batch, with their places."""
    return list(enumerate(tensor.shape))[1:]


def _open(path: Path) -> Any:
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as failure:
        if "safe_mode" in str(failure):
            raise AdapterError(
                "has a layer with Python code in it (Lambda), which can do anything: write it as "
                "a class of its own, or export the model to ONNX (model.export(FILE, "
                "format='onnx'))"
            ) from failure
        raise AdapterError(f"Keras {keras.__version__} can't load it: {failure}") from failure
