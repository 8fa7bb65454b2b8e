"""The inputs of requests: made up to fit a model's metadata, or taken from files.

Runs in the parent, before the load. Elements of BYTES inputs are bytes objects in an object array.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensembled_client.load.errors import LoadTestError, UsageError
from ensembled_client.load.images import encode_png, random_picture

__all__ = ["DTYPES", "InputSpec", "Inputs", "from_files", "inputs_of", "made_up"]

#: NumPy's type for each fixed-size datatype of the protocol.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}

#: One request's arrays by the name of the input.
Inputs = Mapping[str, npt.NDArray[Any]]

_IMAGE = "image"
_MOST_INTEGER = 100
_DECIMALS = 6


@dataclass(frozen=True)
class InputSpec:
    """An input of the model: `shape` is without the batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether it takes encoded images."""
        return (self.name, self.datatype) == (_IMAGE, "BYTES")


def inputs_of(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> list[InputSpec]:
    """Return a model's inputs, all dimensions known.

    Args:
        metadata: the model's.
        shapes: by input, without the batch dimension: where the metadata leaves dimensions open.

    Raises:
        LoadTestError: if a datatype is unknown, or a dimension.
        UsageError: if a shape is given for no input, or contradicts the metadata.
    """
    described = {one["name"]: one for one in metadata["inputs"]}
    for name in shapes.keys() - described.keys():
        raise UsageError(f"--shape {name}: the model's inputs are {', '.join(described)}")
    return [_input(one, shapes.get(name)) for name, one in described.items()]


def _input(described: Mapping[str, Any], shape: tuple[int, ...] | None) -> InputSpec:
    name, datatype = described["name"], described["datatype"]
    declared = tuple(int(size) for size in described["shape"][1:])
    if datatype not in DTYPES and datatype != "BYTES":
        raise LoadTestError(f"input {name!r}: no data can be made for the datatype {datatype}")
    if shape is None:
        if -1 in declared:
            sizes = ",".join("N" if size == -1 else str(size) for size in declared)
            raise LoadTestError(
                f"input {name!r} leaves dimensions open: say --shape {name}:{sizes}"
            )
        return InputSpec(name, datatype, declared)
    if len(shape) != len(declared) or any(
        size not in {-1, given} for size, given in zip(declared, shape, strict=True)
    ):
        raise UsageError(f"--shape {name}: the model has {list(declared)}, not {list(shape)}")
    return InputSpec(name, datatype, shape)


def made_up(
    inputs: Sequence[InputSpec], rows: int, seed: int, image_size: tuple[int, int]
) -> Iterator[Inputs]:
    """Yield random inputs without end; the same for the same seed.

    Floats are 0 to 1 with six decimals, integers 0 to 100 (0 to 255 for UINT8).
    """
    random = np.random.default_rng(seed)
    while True:
        yield {one.name: _random(one, rows, random, image_size) for one in inputs}


def _random(
    spec: InputSpec, rows: int, random: np.random.Generator, image_size: tuple[int, int]
) -> npt.NDArray[Any]:
    shape = (rows, *spec.shape)
    if spec.is_image:
        return _objects([encode_png(random_picture(random, *image_size)) for _ in range(rows)])
    if spec.datatype == "BYTES":
        count = int(np.prod(shape))
        return _objects([random.bytes(8).hex().encode() for _ in range(count)]).reshape(shape)
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        most = 255 if spec.datatype == "UINT8" else _MOST_INTEGER
        return random.integers(0, most, shape, endpoint=True).astype(dtype)
    return random.random(shape).round(_DECIMALS).astype(dtype)


def _objects(elements: Sequence[bytes]) -> npt.NDArray[Any]:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def from_files(inputs: Sequence[InputSpec], rows: int, paths: Sequence[Path]) -> Iterator[Inputs]:
    """Yield inputs from files without end: `rows` rows after the other, round and round.

    Args:
        inputs: the model's.
        rows: of each request.
        paths: one ``.npz`` with an array [n, ...] per input; one ``.npy`` for a model with one
            input; or encoded images.

    Raises:
        LoadTestError: if a file can't be read, or does not fit the model.
    """
    arrays = _read(inputs, paths)
    whole = min(len(array) for array in arrays.values())
    for start in itertools.count(step=rows):
        take = (start + np.arange(rows)) % whole
        yield {name: array[take] for name, array in arrays.items()}


def _read(inputs: Sequence[InputSpec], paths: Sequence[Path]) -> dict[str, npt.NDArray[Any]]:
    suffixes = {path.suffix.lower() for path in paths}
    if suffixes & {".npy", ".npz"}:
        if len(paths) > 1:
            raise UsageError("--input takes one .npy or .npz file, or any number of images")
        return _arrays(inputs, paths[0])
    if [one.is_image for one in inputs] != [True]:
        raise LoadTestError(f"{paths[0]}: the model does not take images, but .npy or .npz files")
    try:
        return {inputs[0].name: _objects([path.read_bytes() for path in paths])}
    except OSError as error:
        raise LoadTestError(f"{error.filename}: {error.strerror}") from None


def _arrays(inputs: Sequence[InputSpec], path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                if len(inputs) != 1:
                    names = ", ".join(one.name for one in inputs)
                    raise LoadTestError(f"{path}: the model has several inputs, {names}: use .npz")
                return {inputs[0].name: _fitting(inputs[0], loaded, path)}
            return {one.name: _fitting(one, _named(loaded, one, path), path) for one in inputs}
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise LoadTestError(f"{path} can't be read: {error}") from None


def _named(loaded: Mapping[str, npt.NDArray[Any]], spec: InputSpec, path: Path) -> Any:
    if spec.name not in loaded:
        raise LoadTestError(f"{path} has no array {spec.name!r}, but {', '.join(loaded)}")
    return loaded[spec.name]


def _fitting(spec: InputSpec, array: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """The array in the model's datatype, [n, *shape]."""
    if spec.datatype == "BYTES" and array.dtype.kind in "SU":
        flat = [one.encode() if isinstance(one, str) else one for one in array.ravel().tolist()]
        array = _objects(flat).reshape(array.shape)
    elif spec.datatype == "BYTES" or array.dtype.kind not in "biuf":
        raise LoadTestError(f"{path}: input {spec.name!r} is {spec.datatype}, not {array.dtype}")
    else:
        array = array.astype(DTYPES[spec.datatype])
    if array.shape == spec.shape:
        array = array[np.newaxis]
    if array.shape[1:] != spec.shape or len(array) == 0:
        raise LoadTestError(
            f"{path}: input {spec.name!r} should be [n, {', '.join(map(str, spec.shape))}], "
            f"not {list(array.shape)}"
        )
    return array
