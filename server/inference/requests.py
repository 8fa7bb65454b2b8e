"""An infer request as every protocol understands it: tensors, wanted outputs, parameters.

Runs in the front-end; pure. The protocols make it of what came over the wire; `Inference` has it
answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from server.errors import InvalidRequest
from server.inference.tensors import Tensor

__all__ = [
    "InferRequest",
    "Parameters",
    "WantedOutput",
    "read_parameters",
    "refuse_shared_memory",
]

_MAX_TIMEOUT_US = 10**15
_MAX_QUORUM = 64


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that the client wants.

    Attributes:
        name: of the output.
        binary: whether raw instead of JSON, where a protocol has both.
        classes: how many of the best classes to name instead of all values, 0 for the values.
    """

    name: str = "output"
    binary: bool = False
    classes: int = 0


class Parameters(msgspec.Struct, frozen=True):
    """The parameters of a request that change its answer.

    Attributes:
        timeout_s: the request's own deadline, 0 for none.
        members: names of the members that it wants, none for all.
        quorum: the fewest members the answer may rest on, 0 for the ensemble's own.
        is_urgent: whether it goes before others.
    """

    timeout_s: float = 0.0
    members: tuple[str, ...] = ()
    quorum: int = 0
    is_urgent: bool = False


_NO_PARAMETERS = Parameters()


class InferRequest(msgspec.Struct, frozen=True):
    """An infer request.

    Attributes:
        id: to be echoed, may be empty.
        tensors: the inputs, sizes checked, names not.
        outputs: what is wanted, in this order.
        parameters: those that change the answer.
    """

    id: str
    tensors: list[Tensor]
    outputs: tuple[WantedOutput, ...] = (WantedOutput(),)
    parameters: Parameters = _NO_PARAMETERS


def read_parameters(given: Mapping[str, Any]) -> Parameters:
    """Read a request's parameters; those that other servers know are passed over.

    Raises:
        InvalidRequest: if one that we know has no meaning.
    """
    if not given:
        return _NO_PARAMETERS
    timeout = given.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout <= _MAX_TIMEOUT_US:
        raise InvalidRequest(f"parameter timeout is 0 to {_MAX_TIMEOUT_US} microseconds")
    quorum = given.get("quorum", 0)
    if type(quorum) is not int or not 0 <= quorum <= _MAX_QUORUM:
        raise InvalidRequest(f"parameter quorum is a number of members, not {quorum!r}")
    priority = given.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise InvalidRequest("parameter priority is a number: 1 goes before all others")
    members = given.get("members", "")
    if not isinstance(members, str):
        raise InvalidRequest("parameter members is a text: names of members, separated by commas")
    names = tuple(name for part in members.split(",") if (name := part.strip()))
    if not (timeout or quorum or names or priority == 1):
        return _NO_PARAMETERS
    return Parameters(timeout / 1e6, names, quorum, priority == 1)


def refuse_shared_memory(tensor: str, parameters: Mapping[str, Any]) -> None:
    """Refuse a tensor whose data is, or should go, elsewhere: not even a client notices that.

    Args:
        tensor: which one, for the message.
        parameters: of the tensor.

    Raises:
        InvalidRequest: if it names a region of shared memory.
    """
    if "shared_memory_region" in parameters:
        raise InvalidRequest(f"{tensor}: shared memory is not supported, send the data")
