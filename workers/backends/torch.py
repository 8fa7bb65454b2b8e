"""Exported programs (``.pt2``) and TorchScript (``.pt``, ``.ts``), run by PyTorch.

Runs in workers with such a member and in inspection. NumPy views of the arena go in; on a GPU
they are copied asynchronously (the worker has pinned the arena) and the stream is synchronised
before the answer is returned. Pickled checkpoints are refused, see `workers.backends.archive`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ensembled_client.wire import datatype_of
from torch.utils import _pytree as pytree

from workers.backends.archive import ArchiveError, examine, forced_weights_only
from workers.backends.base import (
    Array,
    choose_output,
    error,
    input_spec,
    one_line,
    output_spec,
    weights_bytes,
    zeros,
)
from workers.runtime.spec import DeviceSpec, ModelSignature, ModelSource, TensorSpec

__all__ = ["TorchModel"]

Forward = Callable[[list[torch.Tensor]], object]


class TorchModel:
    """A PyTorch module on one device."""

    def __init__(self, source: ModelSource, device: DeviceSpec) -> None:
        path = Path(source.path)
        if not path.is_file():
            raise error(source, "the model file does not exist")
        self._device = _open_device(source, device)
        torch.set_num_threads(len(device.cores) or 1)
        try:
            kind = examine(path)
            with warnings.catch_warnings():
                # torch announces the end of TorchScript at every load.
                warnings.simplefilter("ignore")
                opened = _open_exported if kind == "exported" else _open_script
                inputs, self._forward = opened(source, self._device)
        except ArchiveError as refusal:
            raise error(source, str(refusal)) from refusal
        self._inputs: tuple[TensorSpec, ...] = inputs
        self._pick: Callable[[object], object] | None = None
        try:
            answer = self._run(zeros(inputs))
            name, self._pick = _choose(source, answer)
            value = _to_host(self._pick(answer))
        except (RuntimeError, MemoryError, TypeError) as failure:
            reason = f"fails on a batch of 2 rows of zeros: {one_line(failure)}"
            raise error(source, reason) from failure
        output = output_spec(source, name, value)
        self.signature = ModelSignature(inputs, output, weights_bytes(path))

    def arm(self) -> None:
        """Nothing changes when traffic starts."""

    def predict(self, inputs: Sequence[Array]) -> Array:
        """Predict one batch, see `workers.backends.Model.predict`."""
        assert self._pick is not None, "a closed model can't predict"
        value = _to_host(self._pick(self._run(inputs)))
        assert isinstance(value, np.ndarray)
        return value

    def close(self) -> None:
        """Drop the module, and give the GPU's memory back to the driver."""
        self._pick = None
        self._forward = _closed
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, inputs: Sequence[Array]) -> object:
        """Run the module on the device; its result stays there."""
        tensors = []
        for spec, array in zip(self._inputs, inputs, strict=True):
            # torch has no read-only tensors, and warns about each attempt to make one.
            tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
            if spec.datatype == "BF16":
                tensor = tensor.view(torch.bfloat16)
            tensors.append(tensor.to(self._device, non_blocking=True))
        try:
            with torch.inference_mode():
                return self._forward(tensors)
        except torch.OutOfMemoryError as failure:
            torch.cuda.empty_cache()
            raise MemoryError(one_line(failure)) from failure
        except RuntimeError as failure:
            if "allocate memory" in str(failure):
                raise MemoryError(one_line(failure)) from failure
            raise
        except Exception as failure:
            # Exported and scripted code fails with whatever its operators raise.
            raise RuntimeError(one_line(failure)) from failure


def _open_device(source: ModelSource, device: DeviceSpec) -> torch.device:
    """Return torch's name of a device; all modules on a part of a GPU share that part's budget.

    Raises:
        ModelError: if torch can't use it.
    """
    if not device.is_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise error(source, f"torch can't use {device.name}: it finds no CUDA device")
    chosen = torch.device("cuda", device.cuda_index)
    if device.virtual:
        total_bytes = torch.cuda.get_device_properties(chosen).total_memory
        fraction = min(device.memory_bytes / total_bytes, 1.0)
        torch.cuda.set_per_process_memory_fraction(fraction, chosen)
    return chosen


def _closed(tensors: list[torch.Tensor]) -> object:
    raise RuntimeError("the model was closed")


def _open_exported(
    source: ModelSource, device: torch.device
) -> tuple[tuple[TensorSpec, ...], Forward]:
    """Load an exported program; it describes its inputs itself.

    Raises:
        ModelError: if it is damaged or can't be served.
    """
    try:
        with forced_weights_only(), Path(source.path).open("rb") as file:
            program = torch.export.load(file)
        if device.type == "cuda":
            # Unlike `module.to`, this also moves the constants that the graph itself makes.
            from torch.export.passes import move_to_device_pass  # noqa: PLC0415

            program = move_to_device_pass(program, device)
        # The guards are code made from strings in the file, and only say what we check anyway.
        module = program.module(check_guards=False)
    except Exception as failure:
        raise error(source, f"torch can't load it: {one_line(failure)}") from failure
    values = {
        node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"
    }
    specs = []
    for name in program.graph_signature.user_inputs:
        value = values.get(name) if isinstance(name, str) else None
        if not isinstance(value, torch.Tensor):
            raise error(source, f"input {name!r} is not a tensor: export it with tensors only")
        sizes = [size if isinstance(size, int) else str(size) for size in value.shape]
        specs.append(input_spec(source, str(name), _datatype(value.dtype), sizes))
    if not specs:
        raise error(source, "has no inputs")
    structure = program.call_spec.in_spec

    def forward(tensors: list[torch.Tensor]) -> object:
        arguments, named = pytree.tree_unflatten(tensors, structure)
        return module(*arguments, **named)

    return tuple(specs), forward


def _open_script(
    source: ModelSource, device: torch.device
) -> tuple[tuple[TensorSpec, ...], Forward]:
    """Load TorchScript; the configuration has to describe its inputs.

    Raises:
        ModelError: if it is damaged, or nothing is known about its inputs.
    """
    if not source.declared:
        raise error(source, "TorchScript does not describe its inputs: declare them, in order")
    try:
        module: Any = torch.jit.load(source.path, map_location=device)  # type: ignore[no-untyped-call]
        module.eval()
    except Exception as failure:
        raise error(source, f"torch can't load it: {one_line(failure)}") from failure
    return source.declared, lambda tensors: module(*tensors)


def _datatype(dtype: torch.dtype) -> str | None:
    """Return the protocol's name of a torch dtype, None if it can't be stored."""
    if dtype is torch.bfloat16:
        return "BF16"
    try:
        return datatype_of(torch.empty(0, dtype=dtype).numpy().dtype)
    except (TypeError, KeyError):
        return None


def _choose(source: ModelSource, answer: object) -> tuple[str, Callable[[object], object]]:
    """Find the output to use in what a module returned: its name, and how to get at it.

    A tensor stands for itself; a dict's outputs are named by its keys, a dataclass's and a named
    tuple's by their fields, a plain tuple's by their position.
    """
    if isinstance(answer, torch.Tensor):
        if source.output_name and source.output_name not in ("0", "output"):
            raise error(source, f"has no output {source.output_name!r}: it returns one tensor")
        return source.output_name or "output", lambda value: value
    if isinstance(answer, Mapping):
        name = choose_output(source, [str(key) for key in answer])
        return name, lambda value: value[name]
    if dataclasses.is_dataclass(answer):
        fields = [field.name for field in dataclasses.fields(answer)]
    else:
        fields = list(getattr(answer, "_fields", ()))
    if fields:
        name = choose_output(source, fields)
        return name, lambda value: getattr(value, name)
    if isinstance(answer, tuple | list):
        name = choose_output(source, [str(index) for index in range(len(answer))])
        return name, lambda value: value[int(name)]
    raise error(source, f"returns {type(answer).__name__}, from which no output can be taken")


def _to_host(value: object) -> object:
    """Copy a tensor to the host and wait for it; what is no tensor stays what it is.

    BF16, which NumPy does not have, becomes FP32, which has all its values.
    """
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype is torch.bfloat16:
        value = value.float()
    host = value.detach().to("cpu").contiguous()
    if value.device.type == "cuda":
        torch.cuda.current_stream(value.device).synchronize()
    return host.numpy()
