"""Names the variable dimensions of members after the clients' inputs, so that ensembles agree.

Used in the supervisor before anything is started; pure. Signatures with the models' own names of
their dimensions flow in and out. Dimensions are equal within an ensemble if they are so for any of
its members; a mask is as large as what it masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from server.config import Config
from workers.runtime.spec import ModelSignature

__all__ = ["named_alike"]

#: A dimension of an input: the members that agree on it, the client's name of the input, the axis.
_Dimension = tuple[str, str, str]


class _Ties:
    """Things that are equal to each other; the first one stands for all."""

    def __init__(self) -> None:
        self._firsts: dict[object, object] = {}
        self._order: dict[object, int] = {}

    def first(self, one: object) -> object:
        """Return what stands for a thing."""
        self._order.setdefault(one, len(self._order))
        while (before := self._firsts.get(one, one)) != one:
            one = before
        return one

    def tie(self, one: object, other: object) -> None:
        """Note that two things are equal."""
        first, second = sorted((self.first(one), self.first(other)), key=self._order.__getitem__)
        if first != second:
            self._firsts[second] = first


def named_alike(
    config: Config, signatures: Mapping[str, ModelSignature]
) -> dict[str, ModelSignature]:
    """Return the signatures of members, by member, with names like ``input_ids.1``."""
    groups, ties = _Ties(), _Ties()
    for ensemble in config.ensembles.values():
        for name in ensemble.members:
            groups.tie(ensemble.members[0], name)
    for name, signature in signatures.items():
        dimensions = {}
        for own, axis, symbol in _symbols(signature):
            dimensions[own, axis] = str(groups.first(name)), _sent(config, name, own), axis
            ties.tie(dimensions[own, axis], (name, symbol))
        for own, tensor in config.members[name].inputs.items():
            for axis in [axis for given, axis in dimensions if given == own]:
                masked = dimensions.get((tensor.mask or "", axis))
                if masked is not None:
                    ties.tie(dimensions[own, axis], masked)
    return {name: _renamed(name, signature, ties) for name, signature in signatures.items()}


def _symbols(signature: ModelSignature) -> Iterator[tuple[str, str, str]]:
    """Yield each variable dimension: the model's own name of the input, the axis, the symbol."""
    for tensor in signature.inputs:
        for axis, symbol in enumerate(tensor.symbols, start=1):
            if symbol:
                yield tensor.name, "bytes" if axis > len(tensor.shape) else str(axis), symbol


def _sent(config: Config, member: str, own: str) -> str:
    """Return the client's name of an input."""
    tensor = config.members[member].inputs.get(own)
    return tensor.name or own if tensor else own


def _renamed(name: str, signature: ModelSignature, ties: _Ties) -> ModelSignature:
    names: dict[str, str] = {}
    for _, _, symbol in _symbols(signature):
        dimension = ties.first((name, symbol))
        assert isinstance(dimension, tuple), "its input was seen first"
        names[symbol] = ".".join(dimension[1:])
    return msgspec.structs.replace(
        signature,
        inputs=tuple(tensor.renamed(names) for tensor in signature.inputs),
        outputs=tuple(tensor.renamed(names) for tensor in signature.outputs),
    )
