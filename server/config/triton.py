"""What Triton's configuration of a model means here: keys of a member's section.

Pure. The fields of a `ModelConfig` flow in, by their names in ``config.pbtxt``; keys of a section
flow out, and the names of the fields that have no meaning here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["TritonError", "TritonSection", "is_ensemble", "triton_section"]

_BACKENDS = {
    "onnxruntime": "onnx",
    "onnxruntime_onnx": "onnx",
    "pytorch": "torch",
    "pytorch_libtorch": "torch",
}
_MOST_ROWS = 1024
#: Known fields that change nothing: they say what is found out, or give a name to the model.
_NO_MEANING_NEEDED = {"name", "platform", "backend", "input", "output", "max_batch_size"}
_OF_INPUTS = {"name", "data_type", "dims", "format"}
_OF_OUTPUTS = {"name", "data_type", "dims", "label_filename"}
#: LibTorch's outputs have no names: Triton's configuration numbers them.
_NUMBERED = re.compile(r".*__(\d+)")


class TritonError(ValueError):
    """A model can't be served as it is configured; the text begins with the field."""


@dataclass(frozen=True)
class TritonSection:
    """A model's configuration as keys of a member's section.

    Attributes:
        section: keys of the member.
        versions: keys beside `versions` of its `model`.
        unread: fields that have no meaning here, each with a reason where that helps.
    """

    section: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def is_ensemble(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of one of Triton's ensembles, which has no model of its own."""
    return config.get("platform") == "ensemble" or "ensemble_scheduling" in config


def triton_section(config: Mapping[str, Any], folder: Path | None = None) -> TritonSection:
    """Return what a model's configuration means here.

    Args:
        config: its fields, by their names in ``config.pbtxt``.
        folder: that of the model, in which its files of labels are.

    Raises:
        TritonError: if a field has a value that can't be, or no backend here serves the model.
    """
    backend = _backend(config)
    rows = _number("max_batch_size", config.get("max_batch_size", 0))
    section: dict[str, Any] = {}
    if rows > 0:
        section["batch_size"] = min(rows, _MOST_ROWS)
    inputs, outputs = _messages(config, "input"), _messages(config, "output")
    if backend == "torch" and inputs:
        section["inputs"] = {_name("input", one): _declared(one, rows > 0) for one in inputs}
    if outputs:
        section["outputs"] = dict(_output(one, backend, folder) for one in outputs)
    versions: dict[str, Any] = {}
    if (policy := config.get("version_policy")) is not None:
        versions["policy"] = _policy(policy)
    if file := config.get("default_model_filename"):
        versions["file"] = file
    return TritonSection(section, versions, tuple(_unread(config, inputs, outputs)))


def _backend(config: Mapping[str, Any]) -> str:
    """`onnx`, `torch`, or nothing if the configuration does not say it."""
    for key in ("backend", "platform"):
        if given := config.get(key):
            if given not in _BACKENDS:
                raise TritonError(
                    f"{key}: {given!r} is not served here, only {', '.join(_BACKENDS)}: move the "
                    "folder elsewhere"
                )
            return _BACKENDS[given]
    return ""


def _declared(tensor: Mapping[str, Any], has_batch: bool) -> dict[str, Any]:
    """An input of a model that does not describe itself."""
    name = _name("input", tensor)
    datatype = str(tensor.get("data_type", ""))
    if not datatype.startswith("TYPE_") or datatype == "TYPE_INVALID":
        raise TritonError(f"input {name}: data_type: should be TYPE_FP32 or the like")
    datatype = datatype.removeprefix("TYPE_")
    dims = [_number(f"input {name}: dims", size) for size in _as_list(tensor.get("dims", []))]
    return {
        "datatype": "BYTES" if datatype == "STRING" else datatype,
        "shape": dims if has_batch else dims[1:],
    }


def _output(
    tensor: Mapping[str, Any], backend: str, folder: Path | None
) -> tuple[str, dict[str, Any]]:
    """An output by the model's own name; clients use the one in the configuration."""
    name = _name("output", tensor)
    section: dict[str, Any] = {}
    if labels := tensor.get("label_filename"):
        section["labels"] = str(folder / labels) if folder else labels
    numbered = _NUMBERED.fullmatch(name) if backend == "torch" else None
    return (numbered[1], {"name": name, **section}) if numbered else (name, section)


def _policy(policy: Any) -> Any:
    if isinstance(policy, Mapping) and len(policy) == 1:
        ((kind, options),) = policy.items()
        options = options if isinstance(options, Mapping) else {}
        match kind:
            case "all":
                return "all"
            case "latest":
                return {"latest": _number("version_policy", options.get("num_versions", 1))}
            case "specific":
                versions = _as_list(options.get("versions", []))
                return {"specific": [str(one) for one in versions]}
    raise TritonError("version_policy: should be one of all, latest and specific")


def _unread(
    config: Mapping[str, Any],
    inputs: list[Mapping[str, Any]],
    outputs: list[Mapping[str, Any]],
) -> Iterator[str]:
    """Yield the fields that have no meaning here."""
    if str(config.get("max_batch_size")) == "0":
        yield "max_batch_size: 0 (models are served in batches: the first of dims is the batch)"
    for key, tensors, known in (("input", inputs, _OF_INPUTS), ("output", outputs, _OF_OUTPUTS)):
        yield from dict.fromkeys(
            f"{key}.{one}" for tensor in tensors for one in tensor if one not in known
        )
    for key in config:
        if key == "instance_group":
            yield "instance_group (the allocation says what runs where, and how often)"
        elif key == "dynamic_batching":
            yield "dynamic_batching (batches need no configuration)"
        elif key not in _NO_MEANING_NEEDED | {"version_policy", "default_model_filename"}:
            yield key


def _messages(config: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = _as_list(config.get(key, []))
    if not all(isinstance(one, Mapping) for one in found):
        raise TritonError(f"{key}: should be a message with name, data_type and dims")
    return found


def _name(key: str, tensor: Mapping[str, Any]) -> str:
    name = tensor.get("name")
    if not isinstance(name, str) or not name:
        raise TritonError(f"{key}: has no name")
    return name


def _number(key: str, value: Any) -> int:
    """A whole number, which JSON may have as text."""
    try:
        return int(str(value))
    except ValueError:
        raise TritonError(f"{key}: should be a whole number, not {value!r}") from None


def _as_list(value: Any) -> list[Any]:
    """A repeated field, which may be there once."""
    return value if isinstance(value, list) else [value]
