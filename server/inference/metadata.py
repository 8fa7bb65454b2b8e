"""Metadata of the server and configuration of its models: the protocol's documents.

Runs in the front-end, under every protocol; pure. Specs flow in, dictionaries flow out.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from server.inference.outputs import extra_outputs, member_names
from server.inference.spec import DeploymentSpec, InputSpec, ModelSpec
from workers.runtime.spec import TensorSpec

__all__ = [
    "ensemble_config",
    "model_config",
    "model_metadata",
    "server_metadata",
]

_PLATFORM = "ensembled"
#: Read at import: it is in a file, and later there may be no free descriptor.
_VERSION = version("ensembled")
_EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
]


def server_metadata() -> dict[str, Any]:
    """The server's name, version and protocol extensions."""
    return {
        "name": "ensembled",
        "version": _VERSION,
        "extensions": _EXTENSIONS,
    }


def model_metadata(model: ModelSpec, versions: list[str]) -> dict[str, Any]:
    """A model's inputs and outputs, and the versions that are served; -1 is the batch."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": _PLATFORM,
        "inputs": [_tensor_metadata(one.tensor) for one in model.inputs],
        "outputs": [_tensor_metadata(output) for output in model.served.spec.outputs],
    }


def model_config(
    model: ModelSpec, deployment: DeploymentSpec, max_request_bytes: int
) -> dict[str, Any]:
    """A model's configuration: members, rule, quorum, and the devices of its members.

    Its tensors are described as in Triton's configuration, without batch dimensions.
    """
    served = model.served
    arena = next(one for one in deployment.generation.arenas if one.index == served.arena)
    members = {arena.members[member] for member in served.spec.members}
    return {
        "name": model.name,
        "platform": _PLATFORM,
        "backend": _PLATFORM,
        "max_batch_size": arena.capacity,
        "input": [_input_config(one) for one in model.inputs],
        "output": [_tensor_config(output) for output in served.spec.outputs],
        "parameters": {"max_request_bytes": {"string_value": str(max_request_bytes)}},
        "allocation": {
            device: {
                instance.source.member: instance.batch
                for instance in instances
                if instance.source.member in members
            }
            for device, instances in deployment.instances.items()
        },
        "ensemble": ensemble_config(model),
    }


def ensemble_config(model: ModelSpec) -> dict[str, Any]:
    """What is special about our models: members, rules, quorum, further outputs, labels."""
    served = model.served
    ensemble = {
        "members": list(model.members),
        "rule": served.spec.rule,
        "quorum": served.spec.quorum,
        "deadline_ms": served.deadline_s * 1000,
        **_cascade(model),
        "extra_outputs": [_tensor_metadata(tensor) for tensor in extra_outputs(model)],
    }
    if model.variants:
        ensemble["variants"] = model.variants
    if any(one.members != served.spec.mask for one in model.inputs):
        ensemble["inputs"] = {
            name: [one.tensor.name for one in model.inputs if one.members >> member & 1]
            for member, name in zip(served.spec.members, model.members, strict=True)
        }
    if max_shapes := {
        one.tensor.name: list(one.tensor.max_shape) for one in model.inputs if one.tensor.max_shape
    }:
        ensemble["max_shapes"] = max_shapes
    if len(served.spec.rules) > 1:
        ensemble["rules"] = {
            output.name: rule.rule for rule in served.spec.rules for output in rule.outputs
        }
    if model.labels:
        ensemble["labels"] = list(model.labels)
    if model.further_labels:
        ensemble["output_labels"] = {
            output: list(labels) for output, labels in model.further_labels.items()
        }
    return ensemble


def _cascade(model: ModelSpec) -> dict[str, Any]:
    """The stages of a cascade, with the names of the members that each adds."""
    spec = model.served.spec
    if not spec.stages:
        return {}
    previous = (0, *spec.stages)
    stages = [
        member_names(model, stage & ~before)
        for before, stage in zip(previous, spec.stages, strict=False)
    ]
    return {"cascade": stages, "confidence": list(spec.thresholds)}


def _tensor_metadata(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1, *tensor.shape]}


def _input_config(one: InputSpec) -> dict[str, Any]:
    config = _tensor_config(one.tensor)
    return {**config, "optional": True} if one.is_optional else config


def _tensor_config(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}",
        "dims": list(tensor.shape) or [1],
    }
