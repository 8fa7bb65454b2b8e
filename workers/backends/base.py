"""The common part of all backends: the `Model` protocol, its error, and how signatures are found.

Runs in workers and in the inspection's child processes. A file describes its inputs, but only a run
shows the real output: while it loads, every backend predicts a batch of two plain rows, and the
result becomes the signature. A model with variable dimensions runs at several sizes.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import datatype_of

from workers.backends.files import source_bytes
from workers.backends.sizes import (
    SizesError,
    bounded_inputs,
    following_output,
    plain_rows,
    probe_sizes,
)
from workers.runtime.spec import ModelSignature, ModelSource, TensorSpec, Work, variable_symbols
from workers.runtime.texts import one_line

__all__ = [
    "PROBE_ROWS",
    "Array",
    "Model",
    "ModelError",
    "choose_outputs",
    "input_spec",
    "installed_version",
    "refusal",
    "model_file",
    "probe_signature",
]

Array = npt.NDArray[np.generic]

#: Rows of the batch that finds the signature; one could not be distinguished from a fixed batch.
PROBE_ROWS = 2

_TEXT_KINDS = "OSU"  # NumPy's


class ModelError(Exception):
    """A model can't be served; the text is one line that names the member and its file."""


class Model(Protocol):
    """A member's model, loaded on one device. Used by one thread at a time.

    Attributes:
        signature: the inputs and the outputs in use, as found by running the model.
        example: a plausible row of each input, [1, ...], for a model that says what that is; where
            sizes vary, of any.
    """

    signature: ModelSignature
    example: tuple[Array, ...] | None = None

    def arm(self) -> None:
        """Prepare for traffic, after the warm-up: a fake member fails only from here on."""
        return

    def predict(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Predict one batch.

        Args:
            inputs: one C-contiguous array [n, ...] per input, in the order and with the
                dtypes of `signature.inputs`; they are only read.

        Returns:
            The outputs [n, ...] in host memory, in the order and with the dtypes of
            `signature.outputs`, complete (a CUDA device has been synchronised).

        Raises:
            MemoryError: if the device has too little memory for this batch.
            RuntimeError: if the runtime failed in any other way.
        """
        ...

    def count_work(self) -> Work | None:
        """Return what it does for a row, None if that can't be told; for inspection."""
        return None

    def close(self) -> None:
        """Release the model's memory; it can't predict afterwards. May be called twice."""
        ...


def refusal(source: ModelSource, reason: str) -> ModelError:
    """Return the error for a model that can't be served, naming member and file."""
    where = f" ({source.origin})" if source.origin else ""
    return ModelError(f"member {source.member}{where}: {reason}")


def input_spec(
    source: ModelSource,
    name: str,
    datatype: str | None,
    shape: Sequence[object],
    largest: Mapping[str, int] | None = None,
) -> TensorSpec:
    """Return a declared input without its batch dimension, or raise ModelError.

    `datatype` is the protocol's name of the element type, None if it has none. A dimension of
    `shape` that is not an int is variable; a text is its name, of which `largest` may have the
    largest size.
    """
    if datatype is None:
        raise refusal(source, f"input {name!r} has an element type that can't be served")
    if not shape:
        raise refusal(source, f"input {name!r} has no batch dimension (it is a scalar)")
    if isinstance(shape[0], int) and shape[0] >= 0:
        raise refusal(
            source,
            f"input {name!r} has a fixed batch of {shape[0]}: "
            "export it with a dynamic first dimension",
        )
    known = [size if isinstance(size, int | str) and size != "" else -1 for size in shape[1:]]
    sizes = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in known)
    symbols = variable_symbols(name, known)
    bounds = [(largest or {}).get(symbol, 0) for symbol in symbols]
    max_shape = tuple(
        bound if size < 0 else size for size, bound in zip(sizes, bounds, strict=False)
    )
    return TensorSpec(name, datatype, sizes, max_shape, symbols)


def choose_outputs(source: ModelSource, names: Sequence[str]) -> tuple[str, ...]:
    """Return the configured outputs or the only one; raise ModelError if there is neither."""
    listed = ", ".join(names)
    for name in source.outputs:
        if name not in names:
            raise refusal(source, f"has no output {name!r}; it has: {listed}")
    if not source.outputs and len(names) != 1:
        raise refusal(
            source,
            f"has {len(names)} outputs, name the one to use by output_name: {listed} "
            "(or serve several of them: outputs)",
        )
    return source.outputs or (names[0],)


def model_file(source: ModelSource) -> Path:
    """Return the path of a model's file, or raise ModelError if it does not exist."""
    path = Path(source.path)
    if not path.is_file():
        raise refusal(source, "the model file does not exist")
    return path


def probe_signature(
    source: ModelSource,
    inputs: tuple[TensorSpec, ...],
    predict: Callable[[list[Array]], Mapping[str, object]],
) -> ModelSignature:
    """Return the signature of a model after running it on `PROBE_ROWS` rows of zeros.

    `predict` returns the outputs to use by their names. Raises ModelError if the model fails, or an
    output can't be served.
    """
    try:
        inputs = bounded_inputs(source.member, inputs, source.limits)
        sizes = probe_sizes(inputs)
        results = [_probe(source, inputs, at, predict) for at in sizes]
        outputs = tuple(
            output
            if output.name in source.padded
            else following_output(output, [result.shape for result in found], sizes)
            for output, *found in ((one[0], *one) for one in zip(*results, strict=True))
        )
    except SizesError as unfit:
        raise refusal(source, str(unfit)) from unfit
    return ModelSignature(inputs, outputs, source_bytes(source))


def _probe(
    source: ModelSource,
    inputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
    predict: Callable[[list[Array]], Mapping[str, object]],
) -> list[TensorSpec]:
    """Return the outputs of a run on zeros of some sizes, or raise ModelError."""
    sized = [tensor.sized(sizes) for tensor in inputs]
    try:
        values = predict([plain_rows(tensor, PROBE_ROWS) for tensor in sized])
    except (RuntimeError, MemoryError, TypeError) as failure:
        shapes = ", ".join(f"{tensor.name} {list(tensor.stored_shape)}" for tensor in sized)
        what = f"({shapes})" if sizes else "of zeros"
        reason = f"fails on a batch of {PROBE_ROWS} rows {what}: {one_line(failure)}"
        raise refusal(source, reason) from failure
    return [_output_spec(source, name, value) for name, value in values.items()]


def _output_spec(source: ModelSource, name: str, value: object) -> TensorSpec:
    """Return the output without its batch dimension.

    Raises ModelError unless it is an array with a row per input row and without NaN.
    """
    if not isinstance(value, np.ndarray):
        raise refusal(source, f"output {name!r} is not a tensor ({type(value).__name__})")
    try:
        datatype = datatype_of(value.dtype)
    except KeyError:
        datatype = "BYTES"
    if datatype == "BYTES":
        reason = f"output {name!r} has an element type that can't be served ({value.dtype})"
        if value.dtype.kind in _TEXT_KINDS:
            reason += ": for labels, serve the probabilities or the index of the class"
        raise refusal(source, reason)
    if value.ndim == 0 or value.shape[0] != PROBE_ROWS:
        raise refusal(
            source,
            f"output {name!r} has shape {list(value.shape)} for a batch of {PROBE_ROWS} rows: "
            f"its first dimension must be {PROBE_ROWS}",
        )
    if value.dtype.kind == "f" and np.isnan(value).any():
        raise refusal(source, f"output {name!r} is NaN for an input of zeros")
    shape = tuple(int(size) for size in value.shape[1:])
    padded = source.padded.get(name, shape)
    if len(padded) != len(shape):
        raise refusal(
            source,
            f"output {name!r} has shape {list(shape)} for a row, its max_shape {list(padded)} has "
            f"another number of dimensions",
        )
    return TensorSpec(name, datatype, padded)


def installed_version(distribution: str) -> str:
    """Return the version of a distribution, empty if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
