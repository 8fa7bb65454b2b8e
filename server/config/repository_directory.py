"""Reads a model repository: a directory with a folder per member as a configuration.

Runs in the process that reads the configuration; nothing is remembered. The path of a directory
flows in, a document as in a configuration file flows out, in which each member has the versions in
its folder: ``NAME/VERSION/model.onnx``. Beside them are read: ``NAME/member.yaml``, the
member's section; Triton's ``NAME/config.pbtxt``; ``ensembles.yaml``, the section `ensembles`; and
``repository.yaml``, any other sections.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from server.config.directories import is_version
from server.config.members import OUTPUT_KEYS
from server.config.text_format import TextFormatError, parse
from server.config.triton import TritonError, TritonSection, is_ensemble, triton_section
from server.config.yaml_file import read_yaml
from server.errors import ConfigError, did_you_mean

__all__ = ["read_repository"]

_MEMBER, _TRITON = "member.yaml", "config.pbtxt"
_ENSEMBLES, _OTHERS = "ensembles.yaml", "repository.yaml"

#: What a member says of its only output, by the key of the same in `outputs`.
_OF_OUTPUT = {"output": "as", **{key: key for key in OUTPUT_KEYS}}

_log = logging.getLogger(__name__)


def read_repository(directory: Path) -> dict[str, Any]:
    """Return the document of a model repository; paths in it are relative to the directory.

    What is there and is not read is logged in a warning.

    Raises:
        ConfigError: if a file can't be read, or there is no member.
    """
    document = _read_mapping(directory / _OTHERS)
    ensembles = _read_mapping(directory / _ENSEMBLES)
    if ensembles and "ensembles" in document:
        raise ConfigError(
            f"{directory / _OTHERS}: ensembles: they are in {_ENSEMBLES}, too, remove one of them"
        )
    reader = _Reader(directory)
    members = dict(reader.members())
    given = document.get("members", {})
    for name in members.keys() & set(given if isinstance(given, Mapping) else ()):
        reader.problems.append(
            f"{directory / _OTHERS}: members.{name}: there is a folder {name}, too"
        )
    if reader.problems:
        raise ConfigError(reader.problems)
    if not members and not given:
        raise ConfigError(f"{directory}: has no folder of a member, such as NAME/1/model.onnx")
    reader.warn()
    if isinstance(given, Mapping):  # else the document is told to be wrong
        document["members"] = {**members, **given}
    return {**document, **({"ensembles": ensembles} if ensembles else {})}


class _Reader:
    """Reads the folders of a repository, and gathers what is wrong and what is not read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unread: dict[str, tuple[str, ...]] = {}
        self._ensembles: list[str] = []
        self._others: list[str] = []
        self.problems: list[str] = []

    def members(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the members by name, by their sections."""
        try:
            entries = sorted(self._directory.iterdir())
        except OSError as error:
            raise ConfigError(f"{self._directory}: cannot read it: {error.strerror}") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                if entry.suffix in (".yaml", ".yml") and entry.name not in (_ENSEMBLES, _OTHERS):
                    hint = did_you_mean(entry.name, (_ENSEMBLES, _OTHERS))
                    self._others.append(f"{entry.name}{hint}")
                continue
            try:
                section = self._section(entry)
            except ConfigError as error:
                self.problems += error.problems
                continue
            if section is not None:
                yield entry.name, section

    def _section(self, folder: Path) -> dict[str, Any] | None:
        """Return the section of a folder's member; None if it has none."""
        files = [one for one in (_MEMBER, _TRITON) if (folder / one).is_file()]
        if not files and not any(is_version(one) for one in folder.iterdir()):
            self._others.append(f"{folder.name}/")
            return None
        triton = self._triton(folder) if _TRITON in files else TritonSection()
        if triton is None:
            self._ensembles.append(folder.name)
            return None
        if triton.unread:
            self._unread[folder.name] = triton.unread
        own = _read_mapping(folder / _MEMBER)
        model = own.pop("model", {})
        if not isinstance(model, Mapping) or "versions" in model:
            raise ConfigError(
                f"{folder / _MEMBER}: model: is in the folders of the versions; there is only "
                "{policy: ...}, {file: ...} or {without: [...]} to say of it here"
            )
        section = {**triton.section, **_with_outputs(own, triton.section.get("outputs", {}))}
        return {**section, "model": {"versions": str(folder), **triton.versions, **model}}

    def _triton(self, folder: Path) -> TritonSection | None:
        """Return what Triton's configuration says; None if it is of an ensemble."""
        path = folder / _TRITON
        try:
            config = parse(path.read_text(encoding="utf-8"))
            if is_ensemble(config):
                return None
            if config.get("name", folder.name) != folder.name:
                raise TritonError(f"name: should be that of the folder, not {config['name']!r}")
            return triton_section(config, folder)
        except (TextFormatError, TritonError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot read the file: {error.strerror}") from None

    def warn(self) -> None:
        """Log what was found and not read, in a warning for Triton's and one for other things."""
        parts = [f"{name}: {', '.join(unread)}" for name, unread in self._unread.items()]
        if self._ensembles:
            parts.append(
                f"{', '.join(self._ensembles)}: ensembles of Triton, of which nothing is read: "
                f"write {_ENSEMBLES}"
            )
        if parts:
            _log.warning(
                "%s: in %s, this has no meaning here: %s",
                self._directory,
                _TRITON,
                "; ".join(parts),
            )
        if self._others:
            _log.warning("%s: is not read: %s", self._directory, ", ".join(self._others))


def _with_outputs(own: dict[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a member's own section, whose keys of its one output become those of Triton's output.

    Clients then go on to use its name.
    """
    if len(outputs) != 1 or "outputs" in own or "output_name" in own:
        return own
    ((name, section),) = outputs.items()
    said = {key: own[old] for old, key in _OF_OUTPUT.items() if old in own}
    others = {key: value for key, value in own.items() if key not in _OF_OUTPUT}
    return {**others, "outputs": {name: {**section, **said}}}


def _read_mapping(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file; nothing if there is no such file, or it is empty."""
    content = read_yaml(path) if path.exists() else None
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: should be a mapping")
    return content or {}
