"""What a request to load a model brings: its section, by the client's configuration and files.

Runs in the supervisor; pure. A JSON text, a directory of files and the section that the model has
now flow in, its new section flows out, which is validated with the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from server.config.triton import TritonError, TritonSection, is_ensemble, triton_section
from server.errors import ConfigError

__all__ = ["OWN", "Override", "read_override"]

#: The key of a section as configurations have it; all other keys are Triton's.
OWN = "ensembled"


class Override(NamedTuple):
    """A section instead of that in the configuration.

    Attributes:
        section: as it would be in the file.
        directory: which its relative paths are relative to.
    """

    section: dict[str, Any]
    directory: Path

    @property
    def kind(self) -> str:
        """The part of the configuration that it belongs to."""
        is_ensemble = "model" not in self.section and not {"members", "versions"}.isdisjoint(
            self.section
        )
        return "ensembles" if is_ensemble else "members"


def read_override(
    name: str,
    config: str,
    files: Path | None,
    present: Mapping[str, Any] | None,
    directory: Path,
) -> Override:
    """Return the section by which a model is to be loaded.

    Args:
        name: of the model.
        config: a JSON object: ``{"ensembled": SECTION}``, or a section itself (it has `model` or
            `members`), instead of the present one; or fields of Triton's `ModelConfig`, which
            are laid over the present section. Empty for the present section.
        files: a directory with a folder per version, the model's files; None for the present ones.
        present: the model's section now, None if there is none.
        directory: of the configuration.

    Raises:
        ConfigError: if it is not such an object, or has a field that has no meaning here.
    """
    if not config and files is None and present is not None:
        return Override(dict(present), directory)
    given = _parse(name, config)
    own = given.get(OWN, given if _is_section(given) else None)
    if own is None:
        if is_ensemble(given) or {*(present or {})} & {"members", "versions"}:
            raise ConfigError(f"{name}: an ensemble is configured by {{{OWN!r}: SECTION}}")
        fields = _fields(name, given, files)
        section = {**(present or {}), **fields.section}
        model = _with_versions(name, section.get("model"), fields.versions, files)
        return Override({**section, "model": model}, directory)
    if not isinstance(own, dict):
        raise ConfigError(f"{name}: {OWN} should be a section, as in the configuration")
    if OWN in given and (others := [key for key in given if key not in (OWN, "name")]):
        raise ConfigError(f"{name}: {others[0]} has no meaning beside {OWN}, remove it")
    if files is not None and not _is_section(own):
        own = {**own, "model": {"versions": str(files)}}
    return Override(own, files or directory)


def _parse(name: str, config: str) -> dict[str, Any]:
    try:
        given = json.loads(config or "{}")
    except ValueError as error:
        raise ConfigError(f"{name}: its configuration is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{name}: its configuration should be a JSON object")
    return given


def _is_section(given: Mapping[str, Any]) -> bool:
    return not {"model", "members"}.isdisjoint(given)


def _fields(name: str, given: Mapping[str, Any], files: Path | None) -> TritonSection:
    """Triton's fields as keys of a section."""
    if given.get("name", name) != name:
        raise ConfigError(f"{name}: the configuration is of another model, {given['name']!r}")
    try:
        fields = triton_section(given, files)
    except TritonError as error:
        raise ConfigError(f"{name}: {error}") from None
    if fields.unread:
        raise ConfigError(f"{name}: {one}: has no meaning here, remove it" for one in fields.unread)
    return fields


def _with_versions(name: str, model: Any, versions: Mapping[str, Any], files: Path | None) -> Any:
    """A member's `model` with other files, or by other versions of those it has."""
    if files is not None:
        return {"versions": str(files), **versions}
    if model is None:
        raise ConfigError(
            f"{name}: there is no such member in the configuration: send its files, or "
            f"{{{OWN!r}: SECTION}} with its `model`"
        )
    if versions and not (isinstance(model, dict) and "versions" in model):
        raise ConfigError(f"{name}: version_policy: the model has one version in the configuration")
    return {**model, **versions} if versions else model
