"""Infer requests: what every protocol decodes them into, and their binding to a model's inputs.

Runs in the front-end, under every protocol. Tensors, requested outputs and parameters flow in; once
names, datatypes and shapes are checked, a `BoundRequest` flows out to the engine. Images are
decoded in threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from server.engine.memory_budget import MemoryBudget
from server.engine.request import PreparedRequest, StoredInput
from server.errors import InvalidRequest
from server.inference.images import EncodedImage, Pixels, preprocess_images
from server.inference.spec import ModelSpec
from server.inference.tensors import InputTensor
from workers.runtime.spec import TensorSpec

__all__ = [
    "IMAGE_INPUT",
    "BoundRequest",
    "InferRequest",
    "RequestParameters",
    "RequestedOutput",
    "bind_images",
    "bind_tensors",
    "read_output",
    "read_parameters",
    "refuse_shared_memory",
]

_MAX_TIMEOUT_US = 10**15
_MAX_QUORUM = 64
#: The input of models that take images.
IMAGE_INPUT = TensorSpec("image", "BYTES", ())
_IMAGE = IMAGE_INPUT.name
_IMAGE_DIMENSIONS = 4


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output that the client requests.

    `binary`: raw instead of JSON, where a protocol has both; `classes`: return so many of the best
    classes instead of all values, 0 for the values.
    """

    name: str = "output"
    binary: bool = False
    classes: int = 0


class RequestParameters(msgspec.Struct, frozen=True):
    """The parameters of a request that change its answer.

    `timeout_s` is its own deadline, 0 for none; `members` are names, empty for all; `quorum` is the
    fewest members the answer may rest on, 0 for the ensemble's own.
    """

    timeout_s: float = 0.0
    members: tuple[str, ...] = ()
    quorum: int = 0
    is_urgent: bool = False


_NO_PARAMETERS = RequestParameters()


class InferRequest(msgspec.Struct, frozen=True):
    """A decoded infer request: tensors' sizes are checked, names are not; the id may be empty.

    `complaint` is about its first unknown parameter, empty if all are known.
    """

    id: str
    tensors: list[InputTensor]
    outputs: tuple[RequestedOutput, ...] = (RequestedOutput(),)
    parameters: RequestParameters = _NO_PARAMETERS
    complaint: str = ""


class BoundRequest(NamedTuple):
    """A request that was checked against its model: the engine's arguments.

    `inputs` are copied into the arena; unchanged until the request is answered. There is at least 1
    row.
    """

    prepared: PreparedRequest
    inputs: list[StoredInput]
    rows: int


def read_parameters(parameters: Mapping[str, Any]) -> RequestParameters:
    """Validate a request's parameters; for unknown ones see `server.inference.parameters`.

    Raises `InvalidRequest` if one has an invalid value.
    """
    if not parameters:
        return _NO_PARAMETERS
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout <= _MAX_TIMEOUT_US:
        raise InvalidRequest(f"parameter timeout is 0 to {_MAX_TIMEOUT_US} microseconds")
    quorum = parameters.get("quorum", 0)
    if type(quorum) is not int or not 0 <= quorum <= _MAX_QUORUM:
        raise InvalidRequest(f"parameter quorum is a number of members, not {quorum!r}")
    priority = parameters.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise InvalidRequest("parameter priority is a number: 1 goes before all others")
    members = parameters.get("members", "")
    if not isinstance(members, str):
        raise InvalidRequest("parameter members is a text: names of members, separated by commas")
    names = tuple(name for part in members.split(",") if (name := part.strip()))
    if not (timeout or quorum or names or priority == 1):
        return _NO_PARAMETERS
    return RequestParameters(timeout / 1e6, names, quorum, priority == 1)


def read_output(name: str, parameters: Mapping[str, Any], *, binary: bool) -> RequestedOutput:
    """Validate a requested output; raises `InvalidRequest` if a parameter is invalid."""
    refuse_shared_memory(f"output {name!r}", parameters)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidRequest("parameter classification is how many classes to name")
    return RequestedOutput(name, binary, classes)


def refuse_shared_memory(tensor: str, parameters: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` for shared memory, which would otherwise be ignored unnoticed."""
    if "shared_memory_region" in parameters:
        raise InvalidRequest(f"{tensor}: shared memory is not supported, send the data")


def bind_tensors(model: ModelSpec, tensors: Sequence[InputTensor]) -> tuple[int, list[StoredInput]]:
    """Check the tensors of a request against a model's inputs.

    Returns the number of rows, and per input its view of the arena with the bytes. Raises
    `InvalidRequest` if an input is missing, unknown, repeated, or of a wrong type or shape.
    """
    by_name = _by_name(tensors, model.inputs)
    stored: list[StoredInput] = []
    rows = -1
    for spec, view in zip(model.inputs, model.views, strict=True):
        tensor = by_name[spec.name]
        _check(tensor, spec)
        if rows == -1:
            rows = tensor.shape[0]
        elif rows != tensor.shape[0]:
            raise InvalidRequest(
                f"input {spec.name!r} has {tensor.shape[0]} rows, {model.inputs[0].name!r} {rows}"
            )
        assert tensor.array is not None
        stored.append((view, _raw(tensor.array)))
    return rows, stored


def _raw(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array, row by row; a copy only if it is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _by_name(
    tensors: Sequence[InputTensor], expected: Sequence[TensorSpec]
) -> dict[str, InputTensor]:
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != len(tensors):
        raise InvalidRequest("an input is given twice")
    if len(by_name) != len(expected) or any(spec.name not in by_name for spec in expected):
        raise InvalidRequest(
            f"the model takes the inputs {[spec.name for spec in expected]}, "
            f"the request has {list(by_name)}"
        )
    return by_name


def _check(tensor: InputTensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f"input {spec.name!r} is {spec.datatype}, the request has {tensor.datatype}"
        )
    if len(tensor.shape) == 0 or tuple(tensor.shape[1:]) != spec.shape:
        raise InvalidRequest(
            f"input {spec.name!r} has shape {[-1, *spec.shape]}, "
            f"the request has {list(tensor.shape)}"
        )
    _check_rows(tensor)


def _check_rows(tensor: InputTensor) -> None:
    if tensor.shape[0] == 0:
        raise InvalidRequest(f"input {tensor.name!r} has zero rows, send at least one")


async def bind_images(
    model: ModelSpec,
    tensors: Sequence[InputTensor],
    threads: Executor,
    max_pixels: int,
    budget: MemoryBudget,
) -> tuple[int, list[StoredInput]]:
    """Check and preprocess the images of a request.

    There must be one input ``image``: BYTES [n], encoded, or UINT8 [n, height, width, 3], RGB; else
    `InvalidRequest` is raised. Returns the number of rows, and per preparation its view of the
    arena with the bytes of uint8 [n, size, size, 3]. Budget and errors are those of
    `preprocess_images`.
    """
    images = _images(_by_name(tensors, [IMAGE_INPUT])[_IMAGE])
    preparations = [preparation for _, preparation in model.preparations]
    arrays = await preprocess_images(images, preparations, threads, max_pixels, budget)
    views = [view for view, _ in model.preparations]
    return len(images), list(zip(views, map(_raw, arrays), strict=True))


def _images(tensor: InputTensor) -> Sequence[EncodedImage | Pixels]:
    if not tensor.shape:
        raise InvalidRequest(f"input {_IMAGE!r} has no batch dimension")
    _check_rows(tensor)
    if tensor.datatype == "BYTES" and len(tensor.elements) == tensor.shape[0]:
        return tensor.elements
    if tensor.datatype == "UINT8" and len(tensor.shape) == _IMAGE_DIMENSIONS:
        assert tensor.array is not None
        if tensor.array.size == 0:  # of these there could be endlessly many
            raise InvalidRequest(f"input {_IMAGE!r} has images without pixels: {tensor.shape}")
        return list(tensor.array.astype(np.uint8, copy=False))
    raise InvalidRequest(
        f"input {_IMAGE!r} is BYTES [-1] (encoded) or UINT8 [-1, height, width, 3] (RGB), "
        f"the request has {tensor.datatype} {list(tensor.shape)}"
    )
