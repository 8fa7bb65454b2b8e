"""Length classes: the sizes up to which rows with variable dimensions share an arena.

Used in the supervisor before anything is started; pure. Inspected members flow in, the sizes of
each class, and members of these sizes, flow out.

Without `buckets`, each class is half as large as the next: a slot is less than twice as large as
its row, and 1.4 times on average if sizes are spread evenly over their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import msgspec

from server.members.inspect import InspectedMember
from workers.runtime.spec import TensorSpec, symbols_of

__all__ = ["at_sizes", "length_classes", "padded_sizes"]

#: A smaller class saves little: a slot has other bytes as well.
_LEAST_BYTES = 256
_MOST_CLASSES = 9


def length_classes(members: Sequence[InspectedMember]) -> list[dict[str, int]]:
    """Return the sizes of the classes of members that share arenas, by symbol, the largest first.

    Members of fixed sizes have one class, without any size.
    """
    sent = dict.fromkeys(one.sent for member in members for one in member.inputs)
    limits: dict[str, int] = {}
    for tensor in sent:
        limits |= tensor.limits
    shares = {Fraction(1)}
    for member in members:
        for symbol in _bucketed(member):
            shares |= {Fraction(size, limits[symbol]) for size in member.config.buckets}
    if limits and not any(member.config.buckets for member in members):
        shares |= _halves(limits, [tensor for tensor in sent if tensor.symbols])
    classes = [_sizes(limits, share) for share in sorted(shares, reverse=True)]
    for tensor in sent:
        if tensor.datatype == "BYTES" and tensor.symbols:  # even empty texts have lengths
            for sizes in classes:
                sizes[tensor.symbols[-1]] = max(sizes[tensor.symbols[-1]], tensor.length_bytes)
    return [one for number, one in enumerate(classes) if one not in classes[:number]]


def _bucketed(member: InspectedMember) -> list[str]:
    """Return the only variable dimension of a member with buckets."""
    if not member.config.buckets:
        return []
    return list(symbols_of([one.sent for one in member.inputs]))[:1]


def _halves(limits: Mapping[str, int], tensors: Sequence[TensorSpec]) -> set[Fraction]:
    """Return the shares of the default classes in the largest sizes."""
    shares = {Fraction(1)}
    while len(shares) < _MOST_CLASSES:
        sizes = _sizes(limits, min(shares))
        if sum(tensor.sized(sizes).row_bytes for tensor in tensors) <= _LEAST_BYTES:
            break
        shares.add(min(shares) / 2)
    return shares


def _sizes(limits: Mapping[str, int], share: Fraction) -> dict[str, int]:
    return {symbol: math.ceil(size * share) for symbol, size in limits.items()}


def at_sizes(member: InspectedMember, sizes: Mapping[str, int]) -> InspectedMember:
    """Return a member whose largest sizes are those of a class."""
    if not any(one.sent.symbols for one in member.inputs):
        return member
    own = member.signature
    signature = msgspec.structs.replace(
        own,
        inputs=tuple(tensor.sized(sizes) for tensor in own.inputs),
        outputs=tuple(tensor.sized(sizes) for tensor in own.outputs),
    )
    variants = tuple(at_sizes(variant, sizes) for variant in member.variants)
    return replace(member, signature=signature, variants=variants)


def padded_sizes(member: InspectedMember) -> tuple[int, ...]:
    """Return the sizes that a member's rows are padded to, ascending; none for their longest."""
    if all(one.pad is None for one in member.inputs):
        return ()
    for symbol in _bucketed(member):
        largest = next(
            one.sent.limits[symbol] for one in member.inputs if symbol in one.sent.limits
        )
        buckets = member.config.buckets
        return buckets if buckets[-1] >= largest else (*buckets, largest)
    return ()
