"""The variants of members: which of them may run, and whether they fit their members.

Runs in the supervisor before anything is started; pure. A member's section, and what inspection
found of its model and its variants, flow in; names and problems flow out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from server.config import MemberConfig
from workers.runtime.spec import ModelSignature, TensorSpec

__all__ = ["VARIANT", "allowed_variants", "variant_problems"]

_log = logging.getLogger(__name__)
#: Between the names of a member and of its variant; no name contains it.
VARIANT = "/"


def allowed_variants(name: str, member: MemberConfig) -> Iterator[str]:
    """Yield the variants that `may_differ` allows; the others are logged."""
    for variant, config in member.variants.items():
        if member.may_differ and config.disagreement <= member.may_differ:
            yield variant
        else:
            _log.warning(
                "members.%s.variants.%s is not used: its disagreement is %g, may_differ is %g",
                *(name, variant, config.disagreement, member.may_differ),
            )


def variant_problems(found: Mapping[str, ModelSignature]) -> Iterator[str]:
    """Yield the variants that take or give something else than their member, a line each."""
    for name, signature in found.items():
        member, is_variant, variant = name.partition(VARIANT)
        if not is_variant:
            continue
        for key in ("inputs", "outputs"):
            own, wanted = getattr(signature, key), getattr(found[member], key)
            if own != wanted:
                yield (
                    f"members.{member}.variants.{variant}.model: its {key} are {_shown(own)}, "
                    f"those of the member's model are {_shown(wanted)}: make it with "
                    "`ensembled variants`, or give it as a member of its own"
                )


def _shown(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in tensors)
