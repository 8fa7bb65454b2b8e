"""What a Python member says of itself: its inputs, what its outputs mean, labels, an example.

Runs in workers and in inspection. An object flows in whose attributes `inputs`, `output`, `labels`
and `example`, all optional, are as docs/python-members.md says; specs flow out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from ensembled_client.wire import DTYPES
from msgspec.structs import replace

from workers.backends.base import Array, input_spec, refusal
from workers.runtime.importing import describe_failure
from workers.runtime.spec import ModelSource, OutputKind, TensorSpec

__all__ = ["Meanings", "described_example", "described_inputs", "described_outputs"]

_KINDS = get_args(OutputKind)
_DATATYPES = (*DTYPES, "BYTES")
#: A datatype, a shape, and perhaps the largest size.
_DESCRIPTION_LENGTHS = (2, 3)


class Meanings(NamedTuple):
    """What a member's outputs are, and their labels, each by output."""

    kinds: dict[str, OutputKind]
    labels: dict[str, tuple[str, ...]]


def described_inputs(
    source: ModelSource, made: object, call: Callable[..., Any]
) -> tuple[TensorSpec, ...]:
    """Return the inputs, in the order of the parameters of `call`.

    The configuration's description of an input takes precedence over the object's own.

    Raises:
        ModelError: if one is not described, or is none of the parameters.
    """
    specs = {name: _own_input(source, name, own) for name, own in _own_inputs(source, made)}
    specs |= {spec.name: spec for spec in source.declared}
    parameters = inspect.signature(call).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    what = getattr(call, "__name__", "predict")
    names = [p.name for p in named]
    for name in specs:
        if name not in names and not takes_all:
            raise refusal(source, f"{what} has no parameter {name!r}: it has {', '.join(names)}")
    missing = [p.name for p in named if p.default is p.empty and p.name not in specs]
    if missing or not specs:
        raise refusal(
            source,
            f"the inputs of {what} are not described ({', '.join(missing) or 'all'}): declare "
            "datatype and shape under the member's inputs, or give the class an attribute inputs",
        )
    return tuple(specs[name] for name in dict.fromkeys([*names, *specs]) if name in specs)


def described_outputs(source: ModelSource, made: object, name: str) -> Meanings:
    """Return what an object says of its outputs; `name` is the one that it means without a name.

    Raises:
        ModelError: if it says something else than a kind of output, or labels.
    """
    kinds = _by_output(getattr(made, "output", None), name)
    for output, kind in kinds.items():
        if kind not in _KINDS:
            raise refusal(
                source, f"says that {output!r} is {kind!r}: it can be {', '.join(_KINDS)}"
            )
    labels = {}
    for output, given in _by_output(getattr(made, "labels", None), name).items():
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            raise refusal(source, f"its labels of {output!r} are not a list")
        labels[output] = tuple(map(str, given))
    return Meanings(kinds, labels)


def described_example(
    source: ModelSource, made: object, inputs: Sequence[TensorSpec]
) -> tuple[Array, ...] | None:
    """Return a plausible row of each input, [1, ...], None if an object has none.

    Raises:
        ModelError: if an input is missing, or is no row of its datatype.
    """
    example = getattr(made, "example", None)
    if example is None:
        return None
    rows = []
    for spec in inputs:
        try:
            row = _row(spec, example[spec.name])
        except (KeyError, TypeError, ValueError) as failure:
            reason = f"its example of the input {spec.name!r} is wrong: {describe_failure(failure)}"
            raise refusal(source, reason) from failure
        rows.append(row)
    return tuple(rows)


def _row(spec: TensorSpec, value: Any) -> Array:
    if spec.datatype == "BYTES":
        given = np.array(value, object)
        flat = [one.encode() if isinstance(one, str) else bytes(one) for one in given.ravel()]
        row: Array = np.array([*flat, None], object)[:-1].reshape(given.shape)
    else:
        row = np.asarray(value, DTYPES[spec.datatype])
    fits = all(size in (-1, own) for size, own in zip(spec.shape, row.shape[1:], strict=False))
    if row.shape[:1] != (1,) or row.ndim != 1 + len(spec.shape) or not fits or not row.size:
        raise ValueError(f"shape {list(row.shape)} instead of {[1, *spec.shape]}")
    return row


def _by_output(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else {name: value}


def _own_inputs(source: ModelSource, made: object) -> list[tuple[str, Any]]:
    own = getattr(made, "inputs", None)
    if own is None:
        return []
    if not isinstance(own, Mapping):
        raise refusal(source, "its attribute inputs is not a mapping {name: (datatype, shape)}")
    return list(own.items())


def _own_input(source: ModelSource, name: str, own: Any) -> TensorSpec:
    """Return an input that is described as (datatype, shape), perhaps with its largest size.

    The shape is without the batch dimension; a variable dimension has a name or is -1. The largest
    size is a shape, or for BYTES the number of bytes of a row.
    """
    is_pair = isinstance(own, Sequence) and len(own) in _DESCRIPTION_LENGTHS
    if not is_pair or own[0] not in _DATATYPES or not isinstance(own[1], Sequence):
        raise refusal(
            source,
            f"its input {name!r} is {own!r}, not a pair of a datatype and a shape, such as "
            '("FP32", [3]); datatypes are ' + ", ".join(_DATATYPES),
        )
    datatype, shape, *largest = own
    spec = input_spec(source, name, datatype, ["batch", *shape])
    if not largest:
        return spec
    if datatype == "BYTES":
        return replace(spec, max_bytes=largest[0])
    return replace(spec, max_shape=tuple(largest[0]))
