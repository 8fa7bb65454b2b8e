"""Reads a configuration: a YAML file and the environment in, a validated `Config` out.

Runs in the process of the command line, and in the supervisor when it reads the configuration
again; nothing is remembered between. Every mistake ends in one `ConfigError` that lists all
problems in lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from server.config.directories import warn_of_others
from server.config.environment import NESTED, PREFIX, check_variables
from server.config.expansion import expand
from server.config.models import DIRECTORY_KEYS
from server.config.problems import problem_lines
from server.config.repository_directory import read_repository
from server.config.root import Config
from server.config.server import ServerConfig
from server.config.versions import VersionsConfig
from server.config.yaml_file import read_yaml
from server.errors import ConfigError
from workers.fetcher.source import FileSource

__all__ = [
    "file_paths",
    "load_config",
    "missing_files",
    "override_server",
    "read_config",
    "validated",
    "with_versions",
]

#: Keys of files that the server itself writes.
_WRITTEN = {"server.history", "server.state_file"}


class _Environment(BaseSettings):
    """The environment's overrides; for other variables with the prefix see `check_variables`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, env_ignore_empty=True, extra="ignore"
    )

    server: dict[str, Any] = {}


def load_config(path: Path, *, with_conformal: bool = True) -> Config:
    """Return a configuration as it is to be served: with a member for each version.

    Raises:
        ConfigError: as `read_config` and `expand` do.
    """
    return with_versions(read_config(path, with_conformal=with_conformal))


def with_versions(config: Config) -> Config:
    """Return a configuration that was read with a member for each version.

    Raises:
        ConfigError: as `expand` does, with the path that it was read from.
    """
    try:
        return expand(config)
    except ConfigError as error:
        raise ConfigError(f"{config.path}: {line}" for line in error.problems) from None


def read_config(
    path: Path, *, with_conformal: bool = True, document: Mapping[str, Any] | None = None
) -> Config:
    """Return the configuration in a YAML file or a model repository, versions as they are.

    The environment's overrides are part of it. Without what was fitted for the coverage of
    ensembles, it can be calibrated anew. A document that was read from there before can take the
    place of what is there now.

    Raises:
        ConfigError: if the file cannot be read, is not valid, or names files that don't exist.
    """
    is_repository = path.is_dir()
    if document is None:
        document = read_repository(path.absolute()) if is_repository else read_yaml(path)
    if document is None:
        raise ConfigError(f"{path}: is empty, it needs at least `members:`")
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: should be a mapping with the key `members:`")
    if not with_conformal:
        _drop_conformal(document.get("ensembles"))
    config = validated(document, path, directory=path.absolute() if is_repository else None)
    for member in config.members.values():
        if isinstance(member.model, VersionsConfig) and isinstance(member.model.versions, Path):
            warn_of_others(member.model.versions)
    return config


def validated(
    document: Mapping[str, Any],
    path: Path,
    *,
    directory: Path | None = None,
    files: dict[Path, FileSource] | None = None,
    with_files: bool = True,
) -> Config:
    """Return the configuration in a document, with the environment's overrides.

    Args:
        document: the content of a configuration file; sections may be validated already.
        path: what it was read from, for messages.
        directory: which its paths are relative to; that of `path` if absent.
        files: what the sections that are validated already want fetched or checked.
        with_files: whether the files that it names must exist.

    Raises:
        ConfigError: if the document is not valid, or names files that don't exist.
    """
    overrides, given = _environment(), document
    if overrides:
        given = {**document, "server": _merged(document.get("server"), overrides)}
    context = {
        "directory": directory or path.absolute().parent,
        "files": {} if files is None else files,
        "document": document,
        "path": path.absolute(),
    }
    try:
        config = Config.model_validate(given, context=context)
    except ValidationError as error:
        raise ConfigError(problem_lines(error, str(path), overrides=overrides)) from None
    if with_files and (missing := [f"{path}: {line}" for line in missing_files(config)]):
        raise ConfigError(missing)
    return config


def _drop_conformal(ensembles: Any) -> None:
    for ensemble in ensembles.values() if isinstance(ensembles, dict) else ():
        if isinstance(ensemble, dict):
            _drop_conformal(ensemble.get("versions"))
            if ensemble.pop("conformal", None) is not None:
                ensemble.pop("coverage", None)  # which needs it


def override_server(config: Config, **values: Any) -> Config:
    """Return the configuration with keys of its `server` section replaced and validated.

    Raises:
        ConfigError: if a value is not valid.
    """
    try:
        server = ServerConfig.model_validate({**config.server.model_dump(), **values})
    except ValidationError as error:
        raise ConfigError(problem_lines(error, "command line")) from None
    return config.model_copy(update={"server": server})


def _environment() -> dict[str, Any]:
    """The overrides; a variable that overrides nothing is refused, or warned about."""
    check_variables(os.environ, [*ServerConfig.model_fields])
    try:
        return _Environment().server
    except (SettingsError, ValidationError):
        raise ConfigError(
            f"environment: {PREFIX}SERVER should be a JSON object, "
            f"or use one variable per key, such as {PREFIX}SERVER{NESTED}HTTP_PORT"
        ) from None


def _merged(section: Any, overrides: dict[str, Any]) -> dict[str, Any]:
    """A section with its overrides; keys of inner sections that are not overridden stay."""
    merged = dict(section) if isinstance(section, dict) else {}
    for key, value in overrides.items():
        merged[key] = _merged(merged.get(key), value) if isinstance(value, dict) else value
    return merged


def missing_files(config: Config) -> Iterator[str]:
    """Yield the files and directories that a configuration names and lacks, a line each."""
    for key, path in file_paths(config):
        if path in config.files and config.files[path].scheme:
            continue  # it is fetched later
        try:
            is_directory = key.rpartition(".")[2] in {*DIRECTORY_KEYS, "versions"}
            if not (path.is_dir() if is_directory else path.is_file()):
                yield f"{key}: there is no {'directory' if is_directory else 'file'} {path}"
        except OSError as error:
            yield f"{key}: cannot look at {path}: {error.strerror}"


def file_paths(value: Any, key: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the files to read that a section, or the configuration, names, by key."""
    if isinstance(value, Path):
        if key not in _WRITTEN:
            yield key, value
    elif isinstance(value, BaseModel | dict):
        fields = {} if isinstance(value, dict) else type(value).model_fields
        for name, inner in value.items() if isinstance(value, dict) else value:
            own = fields[name].alias or name if name in fields else name
            yield from file_paths(inner, f"{key}.{own}" if key else own)
