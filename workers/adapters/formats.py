"""Tells what a model file or directory is by its content, without opening it as a model.

Runs in workers, in inspection and in `ensembled import`; needs no library, and unpickles nothing. A
path flows in, the kind of model flows out.
"""

from __future__ import annotations

import bz2
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Format", "recognise", "wrong_format"]

_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Format:
    """A kind of model.

    Attributes:
        name: in words, with its article.
        key: the one under `model:` that opens it; "path" if the path itself is the model, empty
            if nothing does.
        fix: what to do instead, for a kind that nothing opens.
        is_pickle: whether loading it may run any code.
    """

    name: str
    key: str = ""
    fix: str = ""
    is_pickle: bool = False


ONNX = Format("an ONNX model", "path")
EXPORTED = Format("an exported PyTorch program", "path")
TORCHSCRIPT = Format("a TorchScript module", "path")
SKOPS = Format("a scikit-learn model (skops)", "sklearn")
PICKLE = Format("a pickle", "sklearn", is_pickle=True)
XGBOOST = Format("an XGBoost model", "xgboost")
LIGHTGBM = Format("a LightGBM model", "lightgbm")
CATBOOST = Format("a CatBoost model", "catboost")
KERAS = Format("a Keras model", "keras")
MLFLOW = Format("an MLflow model directory", "mlflow")
TRANSFORMERS = Format("a directory of transformers", "transformers")
TIMM = Format("a directory of timm", "transformers")
PYTHON = Format("a Python file", "python")
_CODE = "with its class as {python: FILE.py:CLASS, weights: FILE}"
CHECKPOINT = Format(
    "a checkpoint of torch.save", fix=f"save it with torch.export.save, or serve it {_CODE}"
)
SAFETENSORS = Format("weights alone (safetensors)", fix=f"serve them {_CODE}")
HDF5 = Format(
    "an HDF5 file, perhaps a Keras model in the old format",
    fix="open it with Keras and save it as .keras",
)
NUMPY = Format("NumPy arrays, not a model", fix="save the model with its own library")
TENSORFLOW = Format(
    "a TensorFlow SavedModel",
    fix="convert it to ONNX (python -m tf2onnx.convert --saved-model DIR)",
)
TRITON = Format("a directory of Triton's model repository", fix="name the model file inside")
UNKNOWN = Format(
    "no kind of model that is known here",
    fix="export it to ONNX, or serve it from Python code with {python: FILE.py:CLASS}",
)
DAMAGED = Format("a damaged or truncated archive", fix="copy it again")


def recognise(path: Path) -> Format:
    """Return what a file or directory is.

    Raises:
        OSError: if it can't be read, or there is none.
    """
    if path.is_dir():
        return _recognise_directory(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"PK"):
        return _recognise_archive(path)
    found = next((found for matches, found in _CONTENTS if matches(head)), None)
    return found or _SUFFIXES.get(path.suffix.lower(), UNKNOWN)


def wrong_format(path: Path, key: str) -> str:
    """Return why a path is nothing for a key, and which one it should be; empty if it is.

    Raises:
        OSError: if it can't be read, or there is none.
    """
    found = recognise(path)
    if found.key == key:
        return ""
    if found.key == "path":
        return f"this is {found.name}, use the path alone: model: {path.name}"
    if found.key:
        return f"this is {found.name}, use {{{found.key}: {path.name}}}"
    return f"this is {found.name}: {found.fix}"


def _recognise_directory(path: Path) -> Format:
    if (path / "MLmodel").is_file():
        return MLFLOW
    if (path / "config.json").is_file():
        config = _json(path / "config.json")
        return TIMM if "pretrained_cfg" in config or "model_type" not in config else TRANSFORMERS
    if (path / "saved_model.pb").is_file():
        return TENSORFLOW
    return TRITON if (path / "config.pbtxt").is_file() else UNKNOWN


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _recognise_archive(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return DAMAGED
    if "schema.json" in names:
        return SKOPS
    if {"metadata.json", "config.json"} <= names:
        return KERAS
    return NUMPY if all(name.endswith(".npy") for name in names) else _recognise_torch(path, names)


def _recognise_torch(path: Path, names: set[str]) -> Format:
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" in inner and "constants.pkl" not in inner:
        return CHECKPOINT
    if inner & {"archive_format", "archive_version"}:
        return EXPORTED
    return TORCHSCRIPT if "constants.pkl" in inner else UNKNOWN


def _unpacked(head: bytes) -> Iterator[bytes]:
    """Yield how a file begins, and what a compressed one begins with (joblib compresses)."""
    yield head
    for decompressor in (
        zlib.decompressobj(),
        zlib.decompressobj(16 + zlib.MAX_WBITS),  # gzip
        bz2.BZ2Decompressor(),
        lzma.LZMADecompressor(),
    ):
        with suppress(OSError, EOFError, zlib.error, lzma.LZMAError):
            yield decompressor.decompress(head, 16)


def _is_pickle(head: bytes) -> bool:
    return any(start[:1] == b"\x80" for start in _unpacked(head))


def _is_xgboost(head: bytes) -> bool:
    """JSON or Universal Binary JSON of XGBoost, whose first keys are `learner` and `version`."""
    start = head[:64].lstrip()
    return start.startswith(b"{") and (b"learner" in start or b'"version":[' in start)


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30


_CONTENTS: tuple[tuple[Callable[[bytes], bool], Format], ...] = (
    (lambda head: head.startswith(b"\x89HDF"), HDF5),
    (lambda head: head.startswith(b"\x93NUMPY"), NUMPY),
    (lambda head: head.startswith(b"CBM1"), CATBOOST),
    (lambda head: head.startswith((b"tree\n", b"tree\r\n")), LIGHTGBM),
    (_is_xgboost, XGBOOST),
    (_is_safetensors, SAFETENSORS),
    (_is_pickle, PICKLE),
)
#: Of kinds that can't be told by how they begin: a pickle of an old protocol is text.
_SUFFIXES = {
    ".joblib": PICKLE,
    ".onnx": ONNX,
    ".pickle": PICKLE,
    ".pkl": PICKLE,
    ".py": PYTHON,
}
