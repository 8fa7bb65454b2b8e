"""Decides as which variant a member runs on a kind of device: the fastest that was measured there.

Runs in the process that profiles or plans; pure. What a member's own model and its variants cost,
each under its own name, flows in; what members cost as what they run as flows out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from allocator.profiles import Profiles
from server.members.variants import VARIANT
from server.profiling.comparison import SAME
from server.profiling.measurements import Measurements
from server.profiling.targets import TargetKey

__all__ = ["with_fastest_variants", "with_former"]

_Value = TypeVar("_Value")


def with_fastest_variants(forms: Measurements) -> Measurements:
    """Return what members cost on each kind of device as the fastest of their forms.

    A variant runs where it was measured to have more rows/s, by more than noise, than the member's
    own model, or where that does not run at all. Where its own model is estimated, it runs.
    """
    fastest: dict[TargetKey, str] = {}
    for name, kind in dict.fromkeys((one.member, one.device_kind) for one in forms.profiles):
        member, _, variant = name.partition(VARIANT)
        if not variant or {(name, kind), (member, kind)}.intersection(forms.estimated):
            continue
        before = fastest.get((member, kind), member)
        if _rows_per_s(forms, name, kind) > (1 + SAME) * _rows_per_s(forms, before, kind):
            fastest[member, kind] = name
    if not any(VARIANT in name for name in forms.profiles.members):
        return forms
    return replace(
        forms,
        profiles=Profiles(
            replace(one, member=one.member.partition(VARIANT)[0])
            for one in forms.profiles
            if _runs(fastest, (one.member, one.device_kind))
        ),
        colocation=_renamed(fastest, forms.colocation),
        noise=_renamed(fastest, forms.noise),
        energy=_renamed(fastest, forms.energy),
        estimated=tuple(key for key in forms.estimated if VARIANT not in key[0]),
        variants={key: name.partition(VARIANT)[2] for key, name in fastest.items()},
        forms=forms,
    )


def with_former(found: Measurements, former: Measurements, alike: set[str]) -> Measurements:
    """Return what members cost, where that is only estimated as their predecessors cost.

    `alike` are the forms, by name, that cost what they did before.
    """
    forms, before = found.forms or found, former.forms or former
    kept = [key for key in forms.estimated if key[0] in alike]
    return with_fastest_variants(forms.with_former(before, kept))


def _rows_per_s(found: Measurements, name: str, kind: str) -> float:
    rates = [one.rows_per_s for one in found.profiles.of(name, kind).values()]
    return max(rates, default=0.0)


def _runs(fastest: Mapping[TargetKey, str], key: TargetKey) -> bool:
    name, kind = key
    member = name.partition(VARIANT)[0]
    return fastest.get((member, kind), member) == name


def _renamed(
    fastest: Mapping[TargetKey, str], values: Mapping[TargetKey, _Value]
) -> dict[TargetKey, _Value]:
    return {
        (name.partition(VARIANT)[0], kind): value
        for (name, kind), value in values.items()
        if _runs(fastest, (name, kind))
    }
