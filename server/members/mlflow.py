"""Reads MLflow model directories: which file in them is the model, and what opens it.

Runs in the supervisor before anything is started, and in `ensembled import`, without MLflow. The
configured directory flows in, the model of its flavor flows out; nothing is opened but `MLmodel`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.config import LibraryConfig, MlflowConfig
from server.config.models import MODEL_SECTIONS
from server.config.yaml_file import read_yaml
from server.errors import ConfigError
from workers.adapters.formats import recognise

__all__ = ["Flavor", "find_flavor"]

#: Where a flavor says which file is the model.
_FILE_KEYS = ("data", "pickled_model", "model_binary", "model_data", "saved_model_dir")
#: Its datatypes as the protocol's.
_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
#: Flavors whose pickles have scikit-learn's interface.
_TABLES = {"sklearn", "xgboost", "lightgbm", "catboost"}
_GENERIC = "python_function"
_CODE = "serve it from Python code with {python: FILE.py:CLASS}"


@dataclass(frozen=True)
class Flavor:
    """What an MLflow directory holds.

    Attributes:
        name: of the flavor.
        model: the section that opens it, or the path of an ONNX or PyTorch file.
        args: more arguments for the adapter.
    """

    name: str
    model: LibraryConfig | Path
    args: dict[str, Any] = field(default_factory=dict)


def find_flavor(key: str, config: MlflowConfig) -> Flavor:
    """Return the model of an MLflow directory, by the flavor that its library can open.

    Args:
        key: of the model in the configuration, for messages.
        config: names the directory.

    Raises:
        ConfigError: if it is no MLflow directory, or has no flavor that can be served.
    """
    file = config.mlflow / "MLmodel"
    where = f"{key}.mlflow: {config.mlflow}"
    if not file.is_file():
        raise ConfigError(f"{where}: has no file MLmodel, so it is no MLflow model directory")
    document = read_yaml(file)
    flavors = document.get("flavors") if isinstance(document, Mapping) else None
    if not isinstance(flavors, Mapping) or not flavors:
        raise ConfigError(f"{file}: names no flavors, so it is no MLflow model")
    own = {name: one for name, one in flavors.items() if name != _GENERIC}
    if not own:
        raise ConfigError(
            f"{where}: has the flavor {_GENERIC} alone, whose code only MLflow can run: {_CODE}, "
            "which may call mlflow.pyfunc.load_model"
        )
    for name, options in own.items():
        path = _model_path(config.mlflow, options)
        if path is not None:
            return _open(where, name, path, config, document)
    raise ConfigError(f"{where}: the flavors {', '.join(own)} name no file that is there")


def _model_path(directory: Path, options: Any) -> Path | None:
    """Return the file, or the directory, that a flavor's options name, if it is there."""
    for key in _FILE_KEYS:
        name = options.get(key) if isinstance(options, Mapping) else None
        if isinstance(name, str) and (directory / name).exists():
            inner = sorted((directory / name).glob("model.*"))  # of Keras and PyTorch
            return inner[0] if inner else directory / name
    return None


def _open(
    where: str, name: str, path: Path, config: MlflowConfig, document: Mapping[str, Any]
) -> Flavor:
    """Return the flavor of a model file, by what the file is."""
    found = recognise(path)
    if found.key == "path":
        return Flavor(name, path)
    if not found.key or (found.is_pickle and name not in _TABLES):
        fix = f"save its model as ONNX or .pt2, or {_CODE}" if found.is_pickle else found.fix
        raise ConfigError(f"{where}: the model of its flavor {name} is {found.name}: {fix}")
    if found.key != "sklearn":
        return Flavor(name, _library(found.key, path))
    types = dict(_column_types(document))
    section = _library("sklearn", path, trust_pickle=config.trust_pickle)
    return Flavor(name, section, {"types": types} if types else {})


def _library(key: str, path: Path, **fields: Any) -> LibraryConfig:
    section = MODEL_SECTIONS[key]
    assert issubclass(section, LibraryConfig)
    return section.model_validate({key: path, **fields})


def _column_types(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the datatypes of the columns in a model's signature, by name."""
    signature = document.get("signature")
    text = signature.get("inputs") if isinstance(signature, Mapping) else None
    try:
        columns = json.loads(text) if isinstance(text, str) else []
    except ValueError:
        return
    for column in columns:
        if isinstance(column, dict) and column.get("type") in _DATATYPES and "name" in column:
            yield str(column["name"]), _DATATYPES[column["type"]]
