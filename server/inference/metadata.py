"""What the server says of itself and of its models: the protocol's documents, as dictionaries.

Runs in the front-end, under every protocol; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from server.inference.outputs import COMBINED, extra_outputs, member_names
from server.inference.spec import FrontEndSpec, ModelSpec
from workers.runtime.spec import TensorSpec

__all__ = [
    "MODEL_VERSION",
    "model_config",
    "model_metadata",
    "server_metadata",
]

MODEL_VERSION = "1"
_PLATFORM = "ensembled"
#: Read once: it is in a file, and there may be no descriptor for it later.
_VERSION = version("ensembled")
_EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
]


def server_metadata() -> dict[str, Any]:
    """The server's name, version and protocol extensions."""
    return {
        "name": "ensembled",
        "version": _VERSION,
        "extensions": _EXTENSIONS,
    }


def model_metadata(model: ModelSpec) -> dict[str, Any]:
    """A model's inputs and outputs; -1 is the batch."""
    output = model.served.spec.output
    return {
        "name": model.served.name,
        "versions": [MODEL_VERSION],
        "platform": _PLATFORM,
        "inputs": [_described(tensor) for tensor in _inputs(model)],
        "outputs": [_described(TensorSpec(COMBINED, output.datatype, output.shape))],
    }


def model_config(model: ModelSpec, spec: FrontEndSpec) -> dict[str, Any]:
    """A model's configuration: members, rule, quorum, and where its members run.

    Its tensors are described as Triton does; there are no batch dimensions then.
    """
    served = model.served
    ensemble = {
        "members": list(model.members),
        "rule": served.spec.rule,
        "quorum": served.spec.quorum,
        "deadline_ms": served.deadline_s * 1000,
        **_cascade(model),
        "extra_outputs": [_described(tensor) for tensor in extra_outputs(model)],
    }
    if model.labels:
        ensemble["labels"] = list(model.labels)
    output = TensorSpec(COMBINED, served.spec.output.datatype, served.spec.output.shape)
    return {
        "name": served.name,
        "platform": _PLATFORM,
        "backend": _PLATFORM,
        "max_batch_size": spec.memory.arenas[served.arena].capacity,
        "input": _configured(_inputs(model)),
        "output": _configured([output]),
        "parameters": {"max_request_bytes": {"string_value": str(spec.max_request_bytes)}},
        "allocation": {
            device: {
                instance.source.member: instance.batch
                for instance in instances
                if instance.source.member in model.members
            }
            for device, instances in spec.instances.items()
        },
        "ensemble": ensemble,
    }


def _cascade(model: ModelSpec) -> dict[str, Any]:
    """The stages, by the names of the members that each adds."""
    spec = model.served.spec
    if not spec.stages:
        return {}
    former = (0, *spec.stages)
    stages = [
        member_names(model, stage & ~before)
        for before, stage in zip(former, spec.stages, strict=False)
    ]
    return {"cascade": stages, "confidence": list(spec.thresholds)}


def _inputs(model: ModelSpec) -> tuple[TensorSpec, ...]:
    return (TensorSpec("image", "BYTES", ()),) if model.takes_images else model.inputs


def _described(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1, *tensor.shape]}


def _configured(tensors: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {
            "name": tensor.name,
            "data_type": "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}",
            "dims": list(tensor.shape) or [1],
        }
        for tensor in tensors
    ]
