"""Exported programs (``.pt2``), TorchScript (``.pt``, ``.ts``) and modules, run by PyTorch.

Runs in workers with such a member and in inspection. NumPy views of the arena flow in; on a GPU
they are copied asynchronously (the worker has pinned the arena), and the stream is synchronised
before the output is returned. Pickled checkpoints are refused, see `workers.backends.archive`.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ensembled_client.wire import datatype_of
from torch.utils import _pytree as pytree

from workers.backends.archive import ArchiveError, examine, forced_weights_only
from workers.backends.base import (
    Array,
    Model,
    choose_outputs,
    input_spec,
    model_file,
    probe_signature,
    refusal,
)
from workers.runtime.importing import describe_failure
from workers.runtime.spec import DeviceSpec, ModelSource, TensorSpec
from workers.runtime.texts import one_line

__all__ = ["TorchModel", "open_module"]

#: A larger upper end of a range is none.
_ENDLESS = 1 << 31

Forward = Callable[[list[torch.Tensor]], object]
Opener = Callable[[ModelSource, torch.device], tuple[tuple[TensorSpec, ...], Forward]]
#: Takes the outputs to use out of a module's result.
Pick = Callable[[Any], list[object]]


class TorchModel(Model):
    """A PyTorch module on one device."""

    def __init__(
        self, source: ModelSource, device: DeviceSpec, opener: Opener | None = None
    ) -> None:
        self._device = _open_device(source, device)
        torch.set_num_threads(len(device.cores) or 1)
        inputs, self._forward = (opener or _open_file)(source, self._device)
        self._inputs: tuple[TensorSpec, ...] = inputs
        self._pick: Pick | None = None

        def probe(rows: list[Array]) -> dict[str, object]:
            result = self._run(rows)
            names, self._pick = _choose(source, result)
            return dict(zip(names, map(_to_host, self._pick(result)), strict=True))

        self.signature = probe_signature(source, inputs, probe)

    def predict(self, inputs: Sequence[Array]) -> list[Array]:
        """Predict one batch, see `workers.backends.Model.predict`."""
        assert self._pick is not None, "a closed model can't predict"
        outputs: list[Any] = [_to_host(value) for value in self._pick(self._run(inputs))]
        return outputs

    def close(self) -> None:
        """Release the module, and return the GPU's memory to the driver."""
        self._pick = None
        self._forward = _closed
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, inputs: Sequence[Array]) -> object:
        """Run the module on the device, and leave its result there."""
        tensors = []
        for spec, array in zip(self._inputs, inputs, strict=True):
            # torch has no read-only tensors, and warns about each attempt to create one.
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
            # Exported and scripted code raises whatever its operators do.
            raise RuntimeError(one_line(failure)) from failure


def _open_device(source: ModelSource, device: DeviceSpec) -> torch.device:
    """Return torch's device; all modules on a part of a GPU share that part's memory limit."""
    if not device.is_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise refusal(source, f"torch can't use {device.name}: it finds no CUDA device")
    chosen = torch.device("cuda", device.cuda_index)
    if device.virtual:
        total_bytes = torch.cuda.get_device_properties(chosen).total_memory
        fraction = min(device.memory_bytes / total_bytes, 1.0)
        torch.cuda.set_per_process_memory_fraction(fraction, chosen)
    return chosen


def _closed(tensors: list[torch.Tensor]) -> object:
    raise RuntimeError("the model was closed")


def open_module(
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    source: ModelSource,
    device: torch.device,
) -> tuple[tuple[TensorSpec, ...], Forward]:
    """Move a module with these inputs of its `forward` to a device, with its weights if any."""
    assert source.python is not None
    try:
        if source.python.weights:
            module.load_state_dict(_read_weights(Path(source.python.weights)))
        module.to(device).eval()
        run: Callable[..., object] = module
        if source.python.compile:
            # In this process, whose cores are the device's.
            torch._inductor.config.compile_threads = 1
            run = torch.compile(module)
    except Exception as failure:
        raise refusal(source, f"loading it failed: {describe_failure(failure)}") from failure
    names = [spec.name for spec in inputs]
    return inputs, lambda tensors: run(**dict(zip(names, tensors, strict=True)))


def _read_weights(path: Path) -> Mapping[str, Any]:
    """Read a state dict from safetensors, or a checkpoint that holds nothing but tensors."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # noqa: PLC0415  (not needed by other models)

        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:
        if type(failure).__name__ != "UnpicklingError":  # of a module that is not to be imported
            raise
        raise TypeError(
            f"{path.name} is a pickle of more than tensors, such as a whole module, which could "
            "run any code: save module.state_dict()"
        ) from None
    if not isinstance(state, Mapping):
        raise TypeError(f"{path.name} holds {type(state).__name__}, not a state dict")
    return state


def _open_file(source: ModelSource, device: torch.device) -> tuple[tuple[TensorSpec, ...], Forward]:
    """Load a model file after examining it."""
    try:
        kind = examine(model_file(source))
    except ArchiveError as unsafe:
        raise refusal(source, str(unsafe)) from unsafe
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        return (_open_exported if kind == "exported" else _open_script)(source, device)


class _LoggedError(logging.Handler):
    """Keeps the last error that `torch.export` logs, instead of raising it, when it can't load."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Called with every record of its logger."""
        if record.exc_info:
            self.error = record.exc_info[1]

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle what is logged within."""
        logger = logging.getLogger(torch.export.__name__)
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


def _open_exported(
    source: ModelSource, device: torch.device
) -> tuple[tuple[TensorSpec, ...], Forward]:
    """Load an exported program, which describes its inputs itself."""
    logged = _LoggedError()
    try:
        with forced_weights_only(), logged.listen(), Path(source.path).open("rb") as file:
            program = torch.export.load(file)
        if device.type == "cuda":
            # Unlike `module.to`, this also moves constants that the graph itself creates.
            from torch.export.passes import move_to_device_pass  # noqa: PLC0415

            program = move_to_device_pass(program, device)
        # The guards are code generated from strings in the file, for checks that we do anyway.
        module = program.module(check_guards=False)
    except Exception as failure:
        reason = one_line(logged.error or failure)
        raise refusal(source, f"torch can't load it: {reason}") from failure
    values = {
        node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"
    }
    specs = []
    largest = _largest_sizes(program)
    for name in program.graph_signature.user_inputs:
        value = values.get(name) if isinstance(name, str) else None
        if not isinstance(value, torch.Tensor):
            raise refusal(source, f"input {name!r} is not a tensor: export it with tensors only")
        sizes = [size if isinstance(size, int) else str(size) for size in value.shape]
        specs.append(input_spec(source, str(name), _datatype(value.dtype), sizes, largest))
    if not specs:
        raise refusal(source, "has no inputs")
    structure = program.call_spec.in_spec

    def forward(tensors: list[torch.Tensor]) -> object:
        arguments, named = pytree.tree_unflatten(tensors, structure)
        return module(*arguments, **named)

    return tuple(specs), forward


def _largest_sizes(program: torch.export.ExportedProgram) -> dict[str, int]:
    """Return the largest size of each variable dimension whose range has an end, by its name."""
    ranges = program.range_constraints.items()
    return {
        str(symbol): int(allowed.upper)
        for symbol, allowed in ranges
        if allowed.upper.is_Integer and allowed.upper < _ENDLESS
    }


def _open_script(
    source: ModelSource, device: torch.device
) -> tuple[tuple[TensorSpec, ...], Forward]:
    """Load TorchScript, whose inputs the configuration has to describe."""
    if not source.declared:
        raise refusal(source, "TorchScript does not describe its inputs: declare them, in order")
    try:
        module: Any = torch.jit.load(source.path, map_location=device)  # type: ignore[no-untyped-call]
        module.eval()
    except Exception as failure:
        raise refusal(source, f"torch can't load it: {one_line(failure)}") from failure
    return source.declared, lambda tensors: module(*tensors)


def _datatype(dtype: torch.dtype) -> str | None:
    """Return the protocol's name of a torch dtype, None if it can't be stored."""
    if dtype is torch.bfloat16:
        return "BF16"
    try:
        return datatype_of(torch.empty(0, dtype=dtype).numpy().dtype)
    except (TypeError, KeyError):
        return None


def _choose(source: ModelSource, result: object) -> tuple[tuple[str, ...], Pick]:
    """Choose the outputs to use in a module's result; return their names, and how to get them.

    A tensor stands for itself; a dict's outputs are named by its keys, a dataclass's and a named
    tuple's by their fields, a plain tuple's by their position.
    """
    if isinstance(result, torch.Tensor):
        for name in source.outputs:
            if name not in ("0", "output"):
                raise refusal(source, f"has no output {name!r}: it returns one tensor")
        return source.outputs or ("output",), lambda value: [value]
    if isinstance(result, Mapping):
        keys = {str(key): key for key in result}
        names = choose_outputs(source, [*keys])
        return names, lambda value: [value[keys[name]] for name in names]
    if dataclasses.is_dataclass(result):
        fields = [field.name for field in dataclasses.fields(result)]
    else:
        fields = list(getattr(result, "_fields", ()))
    if fields:
        names = choose_outputs(source, fields)
        return names, lambda value: [getattr(value, name) for name in names]
    if isinstance(result, tuple | list):
        names = choose_outputs(source, [str(index) for index in range(len(result))])
        return names, lambda value: [value[int(name)] for name in names]
    raise refusal(source, f"returns {type(result).__name__}, from which no output can be taken")


def _to_host(value: object) -> object:
    """Copy a tensor to the host and wait for it; other objects are returned unchanged.

    BF16, which NumPy lacks, becomes FP32, which has all its values.
    """
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype is torch.bfloat16:
        value = value.float()
    host = value.detach().to("cpu").contiguous()
    if value.device.type == "cuda":
        torch.cuda.current_stream(value.device).synchronize()
    return host.numpy()
