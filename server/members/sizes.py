"""What is wrong with the sizes of members' inputs: padding, masks, buckets, and who disagrees.

Used in the supervisor before anything is started; pure. Inspected members flow in, a line per
problem flows out. That each variable dimension has a largest size was found at the inspection
(`workers.backends.sizes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from server.config import InputTensorConfig
from server.members.inspect import InspectedMember
from workers.runtime.spec import TensorSpec, symbols_of

__all__ = ["shared_size_problems", "size_problems"]

_BYTES = "BYTES"


def size_problems(member: InspectedMember) -> Iterator[str]:
    """Yield where a member's section contradicts the sizes of its model's inputs, a line each."""
    inputs = {tensor.name: tensor for tensor in member.signature.inputs}
    for own, config in member.config.inputs.items():
        tensor = inputs.get(own)
        if tensor is not None:
            key = f"members.{member.name}.inputs.{own}"
            yield from _pad_problems(key, config, tensor)
            yield from _mask_problems(key, config, tensor, inputs)
    yield from _unpadded(member)
    yield from _bucket_problems(member)
    if member.config.lengths and not symbols_of([*inputs.values()]):
        yield f"members.{member.name}.lengths: is for inputs with variable dimensions"
    if member.config.augment is not None and symbols_of([*inputs.values()]):
        yield f"members.{member.name}.augment: is for inputs of fixed size"


def _pad_problems(key: str, config: InputTensorConfig, tensor: TensorSpec) -> Iterator[str]:
    if config.pad is None:
        return
    if tensor.datatype == _BYTES or not tensor.symbols:
        what = "BYTES, which need no padding" if tensor.datatype == _BYTES else "of fixed size"
        yield f"{key}.pad: the model's input is {what}, remove it"
    elif tensor.dtype.kind in "iu" and tensor.datatype != "BF16":
        known = np.iinfo(tensor.datatype.lower())
        if config.pad != int(config.pad) or not known.min <= config.pad <= known.max:
            yield f"{key}.pad: {config.pad} is not {tensor.datatype}"


def _mask_problems(
    key: str, config: InputTensorConfig, tensor: TensorSpec, inputs: dict[str, TensorSpec]
) -> Iterator[str]:
    if config.mask is None:
        return
    masked = inputs.get(config.mask)
    if masked is None or masked is tensor:
        others = [name for name in inputs if name != tensor.name]
        yield f"{key}.mask: the model has no other input {config.mask!r}, it has {others}"
    elif not tensor.symbols or tensor.datatype == _BYTES or tensor.shape != masked.shape:
        yield (
            f"{key}.mask: the model takes {tensor.datatype} {list(tensor.shape)}, which is no mask "
            f"of {config.mask}, {masked.datatype} {list(masked.shape)}: both should have the same "
            "variable dimensions"
        )


def _unpadded(member: InspectedMember) -> Iterator[str]:
    """Yield which variable inputs lack a value to pad with, if others have one."""
    paddable = [
        (tensor.name, one.pad is not None)
        for tensor, one in zip(member.signature.inputs, member.inputs, strict=True)
        if tensor.symbols and tensor.datatype != _BYTES
    ]
    if any(is_padded for _, is_padded in paddable):
        for name, is_padded in paddable:
            if not is_padded:
                yield (
                    f"members.{member.name}.inputs.{name}.pad: is required, since another input "
                    "is padded"
                )


def _bucket_problems(member: InspectedMember) -> Iterator[str]:
    buckets, key = member.config.buckets, f"members.{member.name}.buckets"
    symbols = symbols_of(member.signature.inputs)
    if buckets and len(symbols) != 1:
        what = ", ".join(symbols) or "none"
        yield f"{key}: are for a model with one variable dimension, it has {what}"
    elif buckets:
        limits = [one.limits for one in member.signature.inputs if one.limits]
        largest = limits[0][symbols[0]]
        if buckets[-1] > largest:
            yield f"{key}: {buckets[-1]} is above the largest size, {largest}"


def shared_size_problems(where: str, members: Sequence[InspectedMember]) -> Iterator[str]:
    """Yield where inputs of an ensemble's members should be equally large, but have other limits.

    Of inputs with one name, it is said where they are compared as a whole.
    """
    known: dict[str, tuple[InspectedMember, str, int]] = {}
    for member in members:
        for sent in [one.sent for one in member.inputs]:
            for symbol, limit in sent.limits.items():
                first, name, size = known.setdefault(symbol, (member, sent.name, limit))
                if size != limit and name != sent.name:
                    yield (
                        f"{where}: members disagree on how large their inputs may be: {name!r} of "
                        f"{first.name!r} {size}, {sent.name!r} of {member.name!r} {limit} (give "
                        f"both the same max_shape)"
                    )
