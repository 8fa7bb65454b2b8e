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
    "share_parameters",
]

_MAX_TIMEOUT_US = 10**15
_MAX_QUORUM = 64
_MAX_LEVELS = 100
#: The outputs that a parameter is for.
_MEANT_FOR = {"coverage": ("interval", "prediction_set"), "quantiles": ("quantiles",)}


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output that the client requests.

    `binary`: raw instead of JSON, where a protocol has both; `classes`: return so many of the best
    classes instead of all values, 0 for the values; `coverage` of an interval or a set, 0 for the
    ensemble's own; `levels` of quantiles, empty for the ensemble's own; `is_default` if the client
    names no output, so that all regular ones are meant.
    """

    name: str = "output"
    binary: bool = False
    classes: int = 0
    coverage: float = 0.0
    levels: tuple[float, ...] = ()
    is_default: bool = False


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
    if not parameters:
        return RequestedOutput(name, binary)
    refuse_shared_memory(f"output {name!r}", parameters)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise InvalidRequest("parameter classification is how many classes to name")
    output = RequestedOutput(name, binary, classes)
    return _with_distribution(output, parameters, f"output {name!r}")


def share_parameters(
    outputs: tuple[RequestedOutput, ...], parameters: Mapping[str, Any]
) -> tuple[RequestedOutput, ...]:
    """Apply a request's `coverage` and `quantiles` to the outputs that they are for.

    An output's own take precedence. Raises `InvalidRequest` if one is invalid, or for no output.
    """
    if not parameters.keys() & _MEANT_FOR.keys():
        return outputs
    for key, names in _MEANT_FOR.items():
        if key in parameters and not any(output.name in names for output in outputs):
            raise InvalidRequest(
                f"parameter {key} is for the output {' or '.join(names)}, which is not requested"
            )
    return tuple([_with_shared(output, parameters) for output in outputs])


def _with_shared(output: RequestedOutput, parameters: Mapping[str, Any]) -> RequestedOutput:
    own = {"coverage": output.coverage, "quantiles": output.levels}
    shared = {
        key: parameters[key]
        for key, names in _MEANT_FOR.items()
        if key in parameters and output.name in names and not own[key]
    }
    return _with_distribution(output, shared, "the request")


def _with_distribution(
    output: RequestedOutput, parameters: Mapping[str, Any], where: str
) -> RequestedOutput:
    """Return an output with the coverage and the levels among some parameters."""
    for key, names in _MEANT_FOR.items():
        if key in parameters and output.name not in names:
            raise InvalidRequest(f"{where}: parameter {key} is for {' and '.join(names)}")
    if "coverage" in parameters:
        coverage = parameters["coverage"]
        if type(coverage) not in {int, float} or not 0 < coverage < 1:
            raise InvalidRequest(
                f"{where}: parameter coverage is a number above 0 and below 1, not {coverage!r}"
            )
        return msgspec.structs.replace(output, coverage=float(coverage))
    if "quantiles" in parameters:
        return msgspec.structs.replace(output, levels=_levels(parameters["quantiles"], where))
    return output


def _levels(given: Any, where: str) -> tuple[float, ...]:
    """Return levels given as a text, or as a list of JSON numbers."""
    parts = given.split(",") if isinstance(given, str) else given
    try:
        levels = tuple([float(part) for part in parts])
    except (TypeError, ValueError):
        levels = ()
    if not 0 < len(levels) <= _MAX_LEVELS or not all(0 < level < 1 for level in levels):
        raise InvalidRequest(
            f"{where}: parameter quantiles is 1 to {_MAX_LEVELS} numbers above 0 and below 1, "
            f'separated by commas, e.g. "0.1,0.5,0.9", not {given!r}'
        )
    if list(levels) != sorted(set(levels)):
        raise InvalidRequest(f"{where}: parameter quantiles ascends, {given!r} does not")
    return levels


def refuse_shared_memory(tensor: str, parameters: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` for shared memory, which would otherwise be ignored unnoticed."""
    if "shared_memory_region" in parameters:
        raise InvalidRequest(f"{tensor}: shared memory is not supported, send the data")
