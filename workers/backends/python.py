"""Members written in Python: a torch module, or any object with a method `predict`.

Runs in workers and in inspection, which import the user's module (or an adapter of
`workers.adapters`) here. Copies of the batch's arrays flow in, arrays of the object's own library
flow out and become NumPy's. docs/python-members.md has the protocol.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from msgspec.structs import replace

from workers.adapters import AdapterError
from workers.backends.base import (
    Array,
    Model,
    ModelError,
    choose_outputs,
    probe_signature,
    refusal,
)
from workers.backends.description import described_example, described_inputs, described_outputs
from workers.backends.sizes import repeated
from workers.runtime.importing import ImportFailed, describe_failure, import_object
from workers.runtime.spec import DeviceSpec, ModelSource, PythonSource

__all__ = ["PythonModel", "open_python"]

#: What `workers.runtime.bootstrap` has set, and a library must not.
_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def open_python(source: ModelSource, device: DeviceSpec) -> Model:
    """Import, make and load a Python member.

    Raises:
        ModelError: if any of it fails, or what it makes is not a model.
        ImportError: if an adapter's library is not installed.
    """
    assert source.python is not None
    with _kept_signals():
        made = _make(source, source.python)
        if _is_module(made) and not hasattr(made, "predict"):
            from workers.backends.torch import TorchModel, open_module  # noqa: PLC0415

            inputs = described_inputs(source, made, made.forward)
            return _described(
                TorchModel(source, device, partial(open_module, made, inputs)), source, made
            )
        try:
            return _described(PythonModel(source, device, made), source, made)
        except BaseException:
            with contextlib.suppress(Exception):  # the first failure is the reason
                _close(made)
            raise


def _described(model: Model, source: ModelSource, made: Any) -> Model:
    """Return a model that knows what its object says of its outputs."""
    signature = model.signature
    meanings = described_outputs(source, made, signature.output.name)
    model.signature = replace(signature, kinds=meanings.kinds, labels=meanings.labels)
    return model


class PythonModel(Model):
    """An object with `predict`, and perhaps `load` and `close`."""

    def __init__(self, source: ModelSource, device: DeviceSpec, made: Any) -> None:
        call = getattr(made, "predict", None)
        if not callable(call):
            raise refusal(source, f"{type(made).__name__} has no method predict")
        self._made = made
        self._call: Callable[..., Any] | None = call
        if hasattr(made, "load"):
            name = f"cuda:{device.cuda_index}" if device.is_cuda else "cpu"
            _attempt(source, "load", partial(made.load, name))
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(len(device.cores) or 1)
        inputs = described_inputs(source, made, call)
        self._names = [spec.name for spec in inputs]
        self.example = described_example(source, made, inputs)

        def probe(rows: list[Array]) -> dict[str, object]:
            if self.example is not None:
                shapes = [one.shape for one in rows]
                rows = list(map(repeated, self.example, shapes))
            return dict(self._run(rows, lambda names: choose_outputs(source, names)))

        self.signature = probe_signature(source, inputs, probe)
        self._outputs = {spec.name: spec.dtype for spec in self.signature.outputs}

    def predict(self, inputs: Sequence[Array]) -> list[Array]:
        """Predict one batch, see `workers.backends.Model.predict`."""
        arrays = self._run(inputs, lambda _: list(self._outputs))
        return [_cast(name, array, self._outputs[name]) for name, array in arrays.items()]

    def close(self) -> None:
        """Let the object release what it holds, and forget it."""
        made, self._made, self._call = self._made, None, None
        _close(made)

    def _run(
        self, inputs: Sequence[Array], choose: Callable[[list[str]], Sequence[str]]
    ) -> dict[str, Array]:
        """Call `predict`, with copies that it may change; return the chosen outputs."""
        assert self._call is not None, "a closed model can't predict"
        arrays = {name: np.array(one) for name, one in zip(self._names, inputs, strict=True)}
        try:
            result = self._call(**arrays)
            if result is None:
                raise TypeError("predict returned None, not an array")
            found = result if isinstance(result, Mapping) else {"output": result}
            names = choose([str(name) for name in found])
            if missing := [name for name in names if name not in found]:
                raise LookupError(f"predict returned {', '.join(found)}, not {', '.join(missing)}")
            return {name: _to_host(found[name]) for name in names}
        except (MemoryError, ModelError):
            raise
        except Exception as failure:
            if "out of memory" in str(failure).lower():
                raise MemoryError(describe_failure(failure)) from failure
            raise RuntimeError(describe_failure(failure)) from failure


def _close(made: Any) -> None:
    if hasattr(made, "close"):
        made.close()


def _cast(name: str, array: Array, dtype: np.dtype[np.generic]) -> Array:
    """Return an output with the type that it had in the beginning."""
    # Another kind of number is an error; wider or narrower floats are converted.
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise RuntimeError(f"predict returned {array.dtype} as {name!r}, not {dtype}")
    return array.astype(dtype, copy=False)


def _make(source: ModelSource, python: PythonSource) -> Any:
    """Import the target and call it."""
    try:
        target = import_object(python.target, python.directory)
    except ImportFailed as failure:
        if python.extra and isinstance(failure.__cause__, ImportError):
            raise failure.__cause__ from None
        raise refusal(source, str(failure)) from failure
    if not callable(target):
        raise refusal(source, "is neither a class nor a function")
    args = dict(python.args)
    if python.extra:
        configured = {
            "declared": {spec.name: spec for spec in source.declared},
            "outputs": source.outputs,
        }
        wanted = inspect.signature(target).parameters
        args |= {name: value for name, value in configured.items() if name in wanted}
    is_plain_class = isinstance(target, type) and not _is_module_type(target)
    if python.weights and is_plain_class:
        args["weights"] = python.weights
    made = _attempt(source, "making it", partial(target, **args))
    if not _is_module(made):
        if python.compile:
            raise refusal(source, "compile is for torch modules")
        if python.weights and not is_plain_class:
            raise refusal(source, "weights are for torch modules and for classes")
    return made


def _attempt(source: ModelSource, what: str, action: Callable[[], Any]) -> Any:
    """Call the user's code, whose failure is a refusal."""
    try:
        return action()
    except (ModelError, ImportError):
        raise
    except AdapterError as failure:
        raise refusal(source, str(failure)) from failure
    except BaseException as failure:  # SystemExit, too
        raise refusal(source, f"{what} failed: {describe_failure(failure)}") from failure


def _is_module(made: object) -> bool:
    return _is_module_type(type(made))


def _is_module_type(kind: type) -> bool:
    """Whether a class is a torch module; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(kind, torch.nn.Module)


def _to_host(value: Any) -> Array:
    """Return an array of any library as NumPy's.

    Raises:
        TypeError: if it is none that can be a tensor.
    """
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        what = type(value).__name__ if array.dtype == object else array.dtype
        raise TypeError(f"predict returned {what}, not an array of numbers")
    return array


@contextlib.contextmanager
def _kept_signals() -> Iterator[None]:
    """Restore the handlers of signals that importing and loading may have replaced."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
