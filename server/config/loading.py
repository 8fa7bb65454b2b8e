"""Reads a configuration file: YAML and the environment in, a validated `Config` out.

Runs in the process of the command line, and in the supervisor on SIGHUP. Every mistake in a file
ends in one `ConfigError` that lists all problems, one line each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from server.config.problems import describe
from server.config.root import Config
from server.config.server import ServerConfig
from server.errors import ConfigError

__all__ = ["load_config", "override_server", "read_yaml"]

_PREFIX = "ENSEMBLED_"
_NESTED = "__"


class _Environment(BaseSettings):
    """The environment's overrides; other variables with the prefix are ignored."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_NESTED, env_ignore_empty=True, extra="ignore"
    )

    server: dict[str, Any] = {}


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, in which a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_config(path: Path) -> Config:
    """Return the configuration in a file, with the environment's overrides.

    Args:
        path: the YAML file; relative paths in it are relative to its directory.

    Raises:
        ConfigError: if the file cannot be read, is not valid, or names files that don't exist.
    """
    document = read_yaml(path)
    if document is None:
        raise ConfigError(f"{path}: is empty, it needs at least `members:`")
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: should be a mapping with the key `members:`")
    overrides = _environment()
    if overrides:
        document["server"] = _merged(document.get("server"), overrides)
    try:
        config = Config.model_validate(document, context={"directory": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(_lines(error, str(path), overrides)) from None
    if missing := [f"{path}: {line}" for line in _missing_files(config)]:
        raise ConfigError(missing)
    return config


def override_server(config: Config, **values: Any) -> Config:
    """Return the configuration with keys of its `server` section replaced and validated.

    Raises:
        ConfigError: if a value is not valid.
    """
    try:
        server = ServerConfig.model_validate({**config.server.model_dump(), **values})
    except ValidationError as error:
        raise ConfigError(_lines(error, "command line", {})) from None
    return config.model_copy(update={"server": server})


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file, None if it is empty.

    Raises:
        ConfigError: if it can't be read, or is not YAML.
    """
    try:
        return yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the file: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{path}{place}: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a 13th month, endless brackets
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None


def _environment() -> dict[str, Any]:
    try:
        return _Environment().server
    except (SettingsError, ValidationError):
        raise ConfigError(
            f"environment: {_PREFIX}SERVER should be a JSON object, "
            f"or use one variable per key, such as {_PREFIX}SERVER{_NESTED}HTTP_PORT"
        ) from None


def _merged(section: Any, overrides: dict[str, Any]) -> dict[str, Any]:
    """A section with its overrides; keys of inner sections that are not overridden stay."""
    merged = dict(section) if isinstance(section, dict) else {}
    for key, value in overrides.items():
        merged[key] = _merged(merged.get(key), value) if isinstance(value, dict) else value
    return merged


def _lines(error: ValidationError, source: str, overrides: dict[str, Any]) -> Iterator[str]:
    for location, message in describe(error):
        if len(location) > 1 and location[0] == "server" and location[1] in overrides:
            name = f"{_PREFIX}SERVER{_NESTED}{str(location[1]).upper()}"
            yield f"environment: {name}: {message}"
        else:
            yield ": ".join(filter(None, (source, ".".join(map(str, location)), message)))


def _missing_files(config: Config) -> Iterator[str]:
    for key, path in _paths(config):
        try:
            if not path.is_file():
                yield f"{key}: there is no file {path}"
        except OSError as error:
            yield f"{key}: cannot look at {path}: {error.strerror}"


def _paths(value: Any, key: str = "") -> Iterator[tuple[str, Path]]:
    """The files that a section, or the configuration, names, by key."""
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, BaseModel | dict):
        for name, inner in value.items() if isinstance(value, dict) else value:
            yield from _paths(inner, f"{key}.{name}" if key else name)
