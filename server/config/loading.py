"""Reads a configuration file: YAML and the environment in, a checked `Config` out.

Runs once, in the process of the command line. Every way in which the file can be wrong ends in
one `ConfigError` that lists all problems, one line each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from server.config.problems import describe
from server.config.root import Config
from server.config.serving import ServerConfig
from server.config.yaml_files import read_yaml
from server.errors import ConfigError

__all__ = ["load_config", "override_server"]

_PREFIX = "ENSEMBLED_"
_NESTED = "__"


class _Environment(BaseSettings):
    """The environment's overrides; other variables of the prefix are not ours to judge."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_NESTED, env_ignore_empty=True, extra="ignore"
    )

    server: dict[str, Any] = {}


def load_config(path: Path) -> Config:
    """Return the configuration in a file, with the environment's overrides.

    Args:
        path: the YAML file; relative paths in it are relative to its directory.

    Raises:
        ConfigError: if the file cannot be read, is not valid, or names files that don't exist.
    """
    document = _parse(path)
    overrides = _environment()
    if overrides:
        document["server"] = _merged(document.get("server"), overrides)
    try:
        config = Config.model_validate(document, context={"directory": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(_lines(error, Config, str(path), overrides)) from None
    if missing := [f"{path}: {line}" for line in _missing_files(config)]:
        raise ConfigError(missing)
    return config


def _merged(section: Any, overrides: dict[str, Any]) -> dict[str, Any]:
    """A section with its overrides; a section within it keeps what is not overridden."""
    merged = dict(section) if isinstance(section, dict) else {}
    for key, value in overrides.items():
        merged[key] = _merged(merged.get(key), value) if isinstance(value, dict) else value
    return merged


def override_server(config: Config, **values: Any) -> Config:
    """Return the configuration with fields of its `server` section replaced, and checked again.

    Raises:
        ConfigError: if a value is not valid.
    """
    try:
        server = ServerConfig.model_validate({**config.server.model_dump(), **values})
    except ValidationError as error:
        raise ConfigError(_lines(error, ServerConfig, "command line", {})) from None
    return config.model_copy(update={"server": server})


def _parse(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    if document is None:
        raise ConfigError(f"{path}: is empty, it needs at least `members:`")
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: should be a mapping with the key `members:`")
    return document


def _environment() -> dict[str, Any]:
    try:
        return _Environment().server
    except (SettingsError, ValidationError):
        names = f"{_PREFIX}SERVER{_NESTED}HTTP_PORT"
        raise ConfigError(
            f"environment: {_PREFIX}SERVER should be a JSON object, "
            f"or use one variable per key, such as {names}"
        ) from None


def _lines(
    error: ValidationError, root: type[BaseModel], source: str, overrides: dict[str, Any]
) -> Iterator[str]:
    for location, message in describe(error, root):
        if len(location) > 1 and location[0] == "server" and location[1] in overrides:
            name = f"{_PREFIX}SERVER{_NESTED}{str(location[1]).upper()}"
            yield f"environment: {name}: {message}"
        else:
            yield ": ".join(filter(None, (source, ".".join(map(str, location)), message)))


def _missing_files(config: Config) -> Iterator[str]:
    for place, path in _files(config):
        try:
            if not path.is_file():
                yield f"{place}: there is no file {path}"
        except OSError as error:  # not even whether it is there can be told
            yield f"{place}: cannot look at {path}: {error.strerror}"


def _files(config: Config) -> Iterator[tuple[str, Path]]:
    """The files that a configuration names, and where it does."""
    for key, path in config.server.files().items():
        yield f"server.{key}", path
    for name, member in config.members.items():
        if isinstance(member.model, Path):
            yield f"members.{name}.model", member.model
        if member.labels is not None:
            yield f"members.{name}.labels", member.labels
    for name, ensemble in config.ensembles.items():
        if ensemble.meta is not None:
            yield f"ensembles.{name}.meta", ensemble.meta
        if ensemble.labels is not None:
            yield f"ensembles.{name}.labels", ensemble.labels
    if isinstance(config.allocation, Path):
        yield "allocation", config.allocation
