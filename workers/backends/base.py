"""What all backends have in common: the `Model` protocol, its error, and how signatures are found.

Runs in workers and in the inspection's child processes. A file describes its inputs, but only a
run tells the truth about the output: every backend answers a batch of two rows of zeros while it
loads, and what comes back is the signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import datatype_of

from workers.runtime.spec import ModelSignature, ModelSource, TensorSpec

__all__ = [
    "PROBE_ROWS",
    "Array",
    "Model",
    "ModelError",
    "choose_output",
    "error",
    "input_spec",
    "one_line",
    "output_spec",
    "weights_bytes",
    "zeros",
]

Array = npt.NDArray[np.generic]

#: Rows of the batch that finds the signature: two, because one can't be told from a fixed batch.
PROBE_ROWS = 2

_LONGEST_REASON = 300


class ModelError(Exception):
    """A model can't be served; the text is one line that names the member and its file."""


class Model(Protocol):
    """A member's model, loaded on one device. Used by one thread at a time."""

    @property
    def signature(self) -> ModelSignature:
        """The inputs and the output, as the model's own run showed them."""
        ...

    def arm(self) -> None:
        """Tell the model that traffic starts: called once, after the warm-up.

        A fake member misbehaves only from here on; for others it means nothing.
        """
        ...

    def predict(self, inputs: Sequence[Array]) -> Array:
        """Predict one batch.

        Args:
            inputs: one C-contiguous array [n, ...] per input, in the order and with the
                dtypes of `signature.inputs`; they are only read.

        Returns:
            The output [n, ...] in host memory, with the dtype of `signature.output`, complete
            (a CUDA device has been synchronised).

        Raises:
            MemoryError: if the device has too little memory for this batch.
            RuntimeError: if the runtime failed in any other way.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; it can't predict afterwards. May be called twice."""
        ...


def error(source: ModelSource, reason: str) -> ModelError:
    """Return the error that says why a source can't be served, naming member and file."""
    where = f" ({source.path})" if source.path else ""
    return ModelError(f"member {source.member}{where}: {reason}")


def one_line(failure: BaseException) -> str:
    """Return what a runtime had to say, squashed into one line of bearable length."""
    text = " ".join(str(failure).split()) or type(failure).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"


def input_spec(
    source: ModelSource, name: str, datatype: str | None, shape: Sequence[object]
) -> TensorSpec:
    """Check one input as the model declares it and return it without its batch dimension.

    Args:
        source: whose input it is, for messages.
        name: the input's name.
        datatype: the protocol's name of its element type, None if it has none.
        shape: the declared shape; a dimension that is not an int is dynamic.

    Raises:
        ModelError: if it can't be served.
    """
    if datatype is None:
        raise error(source, f"input {name!r} has an element type that can't be served")
    if not shape:
        raise error(source, f"input {name!r} has no batch dimension (it is a scalar)")
    if isinstance(shape[0], int) and shape[0] >= 0:
        raise error(
            source,
            f"input {name!r} has a fixed batch of {shape[0]}: "
            "export it with a dynamic first dimension",
        )
    sizes: list[int] = []
    for axis, size in enumerate(shape[1:], start=1):
        if not isinstance(size, int) or size < 0:
            raise error(
                source,
                f"dimension {axis} of input {name!r} is dynamic ({size}): "
                "only the first may be, export it with a fixed size",
            )
        sizes.append(size)
    return TensorSpec(name, datatype, tuple(sizes))


def choose_output(source: ModelSource, names: Sequence[str]) -> str:
    """Return the name of the output to use: the configured one, or the only one.

    Raises:
        ModelError: if there is no such output, or if the choice is left open.
    """
    listed = ", ".join(names)
    if source.output_name:
        if source.output_name not in names:
            raise error(source, f"has no output {source.output_name!r}; it has: {listed}")
        return source.output_name
    if len(names) != 1:
        raise error(
            source, f"has {len(names)} outputs, name the one to use by output_name: {listed}"
        )
    return names[0]


def output_spec(source: ModelSource, name: str, value: object) -> TensorSpec:
    """Check what a model answered to `PROBE_ROWS` rows of zeros, and return it without batch.

    Raises:
        ModelError: if it is not an array with a row per input row, or contains NaN.
    """
    if not isinstance(value, np.ndarray):
        raise error(source, f"output {name!r} is not a tensor ({type(value).__name__})")
    try:
        datatype = datatype_of(value.dtype)
    except KeyError:
        reason = f"output {name!r} has an element type that can't be served ({value.dtype})"
        raise error(source, reason) from None
    if value.ndim == 0 or value.shape[0] != PROBE_ROWS:
        raise error(
            source,
            f"output {name!r} has shape {list(value.shape)} for a batch of {PROBE_ROWS} rows: "
            f"its first dimension must be {PROBE_ROWS}",
        )
    if value.dtype.kind == "f" and np.isnan(value).any():
        raise error(source, f"output {name!r} is NaN for an input of zeros")
    return TensorSpec(name, datatype, tuple(int(size) for size in value.shape[1:]))


def zeros(inputs: Sequence[TensorSpec]) -> list[Array]:
    """Return `PROBE_ROWS` rows of zeros for every input."""
    return [np.zeros((PROBE_ROWS, *spec.shape), spec.dtype) for spec in inputs]


def weights_bytes(path: Path) -> int:
    """Return the size of a model file, with the external data files that lie beside an ONNX.

    Raises:
        OSError: if the file is missing.
    """
    total = path.stat().st_size
    for beside in (f"{path.name}.data", f"{path.name}_data", f"{path.stem}.data"):
        external = path.with_name(beside)
        if external.is_file():
            total += external.stat().st_size
    return total
