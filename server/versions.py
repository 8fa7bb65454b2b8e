"""Names of models that have versions: what clients call them, and what the server calls them.

Pure, used by all processes of the server. A member or an ensemble with versions is expanded into
one per version, called ``NAME@VERSION`` inside; names themselves contain no ``@``.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFAULT_VERSION", "ModelName", "internal_name", "public_name"]

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
    name, _, version = internal.partition(_SEPARATOR)
    return ModelName(name, version or DEFAULT_VERSION)
