"""Rows in an .npz file: inputs by name, checked and converted to what a model takes.

Runs in commands, and in the front-end for `validate`. A file flows in, arrays flow out. Nothing in
the file is executed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from server.errors import ConfigError
from workers.runtime.spec import TensorSpec

__all__ = ["Inputs", "read_arrays", "read_inputs"]

Array = npt.NDArray[Any]

#: A file with a single input may use this instead of the input's own name.
_ANY_NAME = "x"

Inputs = Mapping[str, Array]


def read_inputs(option: str, path: Path, wanted: Sequence[TensorSpec]) -> Inputs:
    """Return the inputs in an .npz file, by the names that clients send.

    Images (UINT8 of three dimensions) may have any height and width.

    Raises:
        ConfigError: if it can't be read, or does not hold these inputs, all of as many rows.
    """
    where = f"{option} {path}"
    held = read_arrays(where, path)
    names = {tensor.name: tensor.name for tensor in wanted}
    if len(wanted) == 1 and wanted[0].name not in held and _ANY_NAME in held:
        names = {wanted[0].name: _ANY_NAME}
    if missing := [name for name in names.values() if name not in held]:
        raise ConfigError(
            f"{where}: has no input {', '.join(map(repr, missing))}; it has {', '.join(held)}"
        )
    inputs = {
        tensor.name: _converted(f"{where}: {names[tensor.name]}", held[names[tensor.name]], tensor)
        for tensor in wanted
    }
    rows = {name: len(array) for name, array in inputs.items()}
    if len(set(rows.values())) > 1:
        raise ConfigError(f"{where}: inputs differ in their number of rows: {rows}")
    if not all(rows.values()):
        raise ConfigError(f"{where}: has no rows")
    return inputs


def read_arrays(where: str, path: Path) -> dict[str, Array]:
    """Return all arrays in an .npz file by name; `where` begins the errors.

    Raises:
        ConfigError: if it can't be read, or is no such file.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not hasattr(loaded, "files"):
            raise ConfigError(f"{where}: is one array, save several by name with numpy.savez")
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where}: is no .npz file of arrays: {error}") from None


def _converted(where: str, given: Array, tensor: TensorSpec) -> Array:
    is_image = tensor.datatype == "UINT8" and len(tensor.shape) == 3
    ends = tensor.shape[2:] if is_image else tensor.shape
    if given.ndim != len(tensor.shape) + 1 or given.shape[given.ndim - len(ends) :] != ends:
        wanted = ["rows", *(["height", "width", 3] if is_image else tensor.shape)]
        raise ConfigError(f"{where} is {list(given.shape)}, not [{', '.join(map(str, wanted))}]")
    if tensor.datatype == "BYTES":
        if given.dtype.kind not in "US":
            raise ConfigError(f"{where} is {given.dtype}, not texts")
        texts = given if given.dtype.kind == "S" else np.char.encode(given, "utf-8")
        return texts.astype(object)
    if tensor.datatype == "BF16" or not np.can_cast(given.dtype, tensor.dtype, "same_kind"):
        raise ConfigError(f"{where} is {given.dtype}, not {tensor.datatype}")
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        row = int(np.argwhere(~np.isfinite(given))[0][0])
        raise ConfigError(f"{where}[{row}] is not a finite number (NaN or infinite)")
    return np.ascontiguousarray(given, tensor.dtype)
