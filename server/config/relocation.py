"""Sections of a configuration as text for a file in another directory: their paths stay right.

Runs in the commands that write configurations; pure, but for looking whether a module is there.
Validated sections flow in, plain values for YAML flow out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.config.base import Section
from server.config.members import MemberConfig
from server.config.root import Config
from server.config.versions import VersionConfig
from server.versions import split_name
from workers.runtime.python_files import python_file

__all__ = ["relocated", "relocated_members"]

#: Keys whose text is ``FILE.py:NAME`` or ``package.module:NAME``, relative to the configuration.
_CODE_KEYS = ("python", "recipe", "augment", "rule")


def relocated(section: Section, config: Config, directory: Path) -> dict[str, Any]:
    """Return what is set in a section, as it should be written into a file in a directory.

    Args:
        section: of the configuration.
        config: which knows what is fetched or pinned, and its own directory.
        directory: of the file to be written.
    """
    given = section.model_dump(exclude_unset=True, exclude_none=True, by_alias=True)
    plain: dict[str, Any] = _Relocation(config, directory.absolute()).plain(given)
    return plain


def relocated_members(config: Config, directory: Path) -> dict[str, Any]:
    """Return the section `members` of a configuration, one of several versions under its name."""
    written: dict[str, Any] = {}
    for internal, member in config.members.items():
        name, version = split_name(internal)
        section = relocated(member, config, directory)
        if not version:
            written[name] = section
        elif name in written:
            own = _own_keys(member, section)
            written[name]["model"]["versions"][version] = own
        else:
            own = _own_keys(member, section)
            written[name] = {**section, "model": {"versions": {version: own}}}
    return written


def _own_keys(member: MemberConfig, section: dict[str, Any]) -> dict[str, Any]:
    """Take out of a member's section what its version has for itself."""
    keys = [key for key in VersionConfig.model_fields if key in section]
    return {key: section.pop(key) for key in keys}


class _Relocation:
    def __init__(self, config: Config, directory: Path) -> None:
        self._config = config
        self._directory = directory

    def plain(self, value: Any, key: str = "") -> Any:
        """Return a value as YAML has it; `key` is the nearest one above it."""
        if isinstance(value, Path):
            return self._path(value)
        if isinstance(value, Mapping):
            return {str(name): self.plain(inner, str(name)) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(inner, key) for inner in value]
        if isinstance(value, str) and key in _CODE_KEYS and ":" in value:
            return self._code(value)
        return value

    def _path(self, path: Path) -> str | dict[str, str]:
        source = self._config.files.get(path)
        if source is None:
            return self._relative(path)
        location = {"url": source.url} if source.scheme else {"file": self._relative(path)}
        return {**location, "sha256": source.sha256} if source.sha256 else source.url

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self._directory)

    def _code(self, target: str) -> str:
        """A file's path; a module beside the configuration becomes a file."""
        where, _, name = target.rpartition(":")
        is_file = where.endswith(".py")
        beside = python_file(where if is_file else f"{where}.py", self._config.directory)
        return f"{self._relative(beside)}:{name}" if is_file or beside.is_file() else target
