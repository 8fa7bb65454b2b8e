"""Infer requests: what every protocol decodes them into, and what the engine gets.

Runs in the front-end, under every protocol; pure. Tensors, requested outputs and parameters flow
in; `server.inference.binding` makes a `BoundRequest` for the engine of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from server.engine.request import PreparedRequest, StoredInput
from server.errors import InvalidRequest
from server.inference.tensors import InputTensor

__all__ = [
    "BoundRequest",
    "InferRequest",
    "RequestParameters",
    "RequestedOutput",
    "read_output",
    "read_parameters",
    "refuse_shared_memory",
]

_MAX_TIMEOUT_US = 10**15
_MAX_QUORUM = 64


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
