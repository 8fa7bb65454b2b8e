"""The library that is selected from: a file or a directory that describes members.

Runs in the process of the command line. A path flows in; the members it describes, each version of
one by itself, flow out, as a configuration that may have more members than one can be served with.

======================================== =========================================================
a YAML file                              `members` as in a configuration; perhaps its `devices`,
                                         `placement` and `server`
a directory with ``library.yaml``        that file, as `ensembled grow` writes it
a model repository                       as `ensembled serve` takes it
any other directory                      its model files, each a member called like the file
======================================== =========================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.config import Config, MemberConfig
from server.config.directories import is_version
from server.config.loading import missing_files, validated, with_versions
from server.config.models import BACKENDS, KEYS_BY_SUFFIX
from server.config.repository_directory import read_repository
from server.config.root import MAX_MEMBERS
from server.config.versions import VersionsConfig
from server.config.yaml_file import read_yaml
from server.errors import ConfigError
from workers.fetcher.source import FileSource

__all__ = ["Library", "read_library", "with_members"]

_FILE = "library.yaml"
#: What a library takes over from a configuration.
_SECTIONS = ("devices", "placement", "server")
#: What is about a library as a whole, or about what is served at present.
_UNUSED = ("ensembles", "allocation")


@dataclass(frozen=True)
class Library:
    """Members to select from.

    Attributes:
        path: what it was read from.
        config: of all members under the server's names, without ensembles.
        document: the sections beside `members`, as they were written.
        left_out: by member, why it can't be used, as far as that is known.
    """

    path: Path
    config: Config
    document: Mapping[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)


def with_members(config: Config, members: Mapping[str, MemberConfig]) -> Config:
    """Return a library's configuration with these members alone."""
    return config.model_copy(update={"members": dict(members), "ensembles": {}})


def read_library(path: Path) -> Library:
    """Return the library in a file or a directory.

    Raises:
        ConfigError: if it can't be read, says something wrong, or has no member.
    """
    source = path / _FILE if (path / _FILE).is_file() else path
    document, directory = _document(source)
    members = document.get("members")
    if not isinstance(members, Mapping) or not members:
        raise ConfigError(f"{source}: has no `members:`, the networks to select from")
    others = {key: value for key, value in document.items() if key not in ("members", *_UNUSED)}
    if unknown := [str(key) for key in others if key not in _SECTIONS]:
        keys = ", ".join(("members", *_SECTIONS))
        raise ConfigError(f"{source}: {unknown[0]}: unknown key, the keys here are {keys}")
    config = _validated(source, directory, members, others)
    left_out: dict[str, str] = {}
    expanded = dict(_expanded(config, left_out))
    return Library(path.absolute(), with_members(config, expanded), others, left_out)


def _document(source: Path) -> tuple[dict[str, Any], Path]:
    """Return the document of a library, and the directory that its paths are relative to."""
    if not source.is_dir():
        document = read_yaml(source)
        if not isinstance(document, dict):
            raise ConfigError(f"{source}: should be a mapping with the key `members:`")
        return document, source.absolute().parent
    files = [one for one in sorted(source.iterdir()) if _key(one) is not None and one.is_file()]
    if files and not any(map(is_version, source.glob("*/*"))):
        return {"members": _of_files(source, files)}, source.absolute()
    return read_repository(source.absolute()), source.absolute()


def _key(file: Path) -> str | None:
    """What opens a model file: a library's key, empty for a backend of ours, None if nothing."""
    suffix = file.suffix.lower()
    return "" if suffix in BACKENDS else KEYS_BY_SUFFIX.get(suffix)


def _of_files(source: Path, files: Sequence[Path]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for file in files:
        if file.stem in members:
            raise ConfigError(f"{source}: two files are called {file.stem!r}, rename one of them")
        key = _key(file)
        members[file.stem] = {"model": {key: file.name} if key else file.name}
    return members


def _validated(
    source: Path, directory: Path, members: Mapping[str, Any], others: Mapping[str, Any]
) -> Config:
    """Return the configuration of any number of members, whose files need not be there."""
    files: dict[Path, FileSource] = {}
    parts: list[Config] = []
    problems: dict[str, None] = {}
    entries = list(members.items())
    for start in range(0, len(entries), MAX_MEMBERS):
        part = {**others, "members": dict(entries[start : start + MAX_MEMBERS])}
        try:
            parts.append(
                validated(part, source, directory=directory, files=files, with_files=False)
            )
        except ConfigError as error:
            problems.update(dict.fromkeys(error.problems))
    if problems:
        raise ConfigError(problems)
    return with_members(parts[0], {k: v for part in parts for k, v in part.members.items()})


def _expanded(config: Config, left_out: dict[str, str]) -> Iterator[tuple[str, MemberConfig]]:
    """Yield the members, a version each, whose files are there."""
    for name, member in config.members.items():
        update: dict[str, Any] = {"rollout": None, "validation": None}
        if isinstance(member.model, VersionsConfig) and member.model.policy is None:
            update["model"] = member.model.model_copy(update={"policy": "all"})
        alone = with_members(config, {name: member.model_copy(update=update)})
        try:
            found = with_versions(alone).members
        except ConfigError as error:
            left_out[name] = _own_line(error.problems[0], config, name)
            continue
        for internal, one in found.items():
            lines = list(missing_files(with_members(config, {internal: one})))
            if lines:
                left_out[internal] = _own_line(lines[0], config, internal)
            else:
                yield internal, one


def _own_line(line: str, config: Config, name: str) -> str:
    """A problem without where it is told of which member it is."""
    return line.removeprefix(f"{config.path}: ").removeprefix(f"members.{name}.")
