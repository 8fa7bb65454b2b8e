"""Names of models that have versions: what clients call them, and what the server calls them.

Pure, used by all processes of the server. A member or an ensemble with versions is expanded into
one per version, called ``NAME@VERSION`` inside; names themselves contain no ``@``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "DEFAULT_VERSION",
    "ModelName",
    "internal_name",
    "public_name",
    "shown_names",
    "split_name",
]

#: Of a model that has no versions.
DEFAULT_VERSION = "1"

_SEPARATOR = "@"


class ModelName(NamedTuple):
    """What clients call a model: its name, and its version, a positive whole number as text."""

    name: str
    version: str


def internal_name(name: str, version: str) -> str:
    """Return what the server calls one of a model's versions."""
    return f"{name}{_SEPARATOR}{version}"


def public_name(internal: str) -> ModelName:
    """Return what clients call a model; without a version in its name it is version 1."""
    name, version = split_name(internal)
    return ModelName(name, version or DEFAULT_VERSION)


def split_name(text: str) -> ModelName:
    """Return the name and the version of ``NAME@VERSION``; without a version that is empty."""
    name, _, version = text.partition(_SEPARATOR)
    return ModelName(name, version)


def shown_names(internals: Sequence[str]) -> tuple[str, ...]:
    """Return what clients call the members of one ensemble: with a version only where it matters.

    That is where another version of the same member is in the ensemble, too.
    """
    names = [public_name(internal).name for internal in internals]
    counts = Counter(names)
    return tuple(
        name if counts[name] == 1 else internal
        for name, internal in zip(names, internals, strict=True)
    )
