"""Reads a configuration file: YAML and the environment in, a validated `Config` out.

Runs in the process of the command line, and in the supervisor on SIGHUP. Every mistake in a file
ends in one `ConfigError` that lists all problems: pydantic's validation errors become lines that
name the key and the fix.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from server.config.base import UnknownKey
from server.config.environment import NESTED, PREFIX, check_variables
from server.config.models import DIRECTORY_KEYS
from server.config.root import Config
from server.config.server import ServerConfig
from server.errors import ConfigError, did_you_mean
from workers.fetcher.source import FileSource

__all__ = [
    "describe",
    "file_paths",
    "load_config",
    "override_server",
    "problem_lines",
    "read_yaml",
    "validated",
]

_MESSAGES = {
    "missing": "is required",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "string_type": "should be text (numbers and booleans need quotes)",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "byte_size": "should be a number of bytes, such as 4096 or 256MiB",
    "byte_size_unit": "should be a number of bytes, such as 4096 or 256MiB",
    "too_short": "should not be empty",
}

#: Values in this section are never repeated: people paste keys in wrong places.
_SECRET = "api_keys"

Location = tuple[int | str, ...]


class _Environment(BaseSettings):
    """The environment's overrides; for other variables with the prefix see `check_variables`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, env_ignore_empty=True, extra="ignore"
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


def load_config(path: Path, *, with_conformal: bool = True) -> Config:
    """Return the configuration in a YAML file, with the environment's overrides.

    Without what was fitted for the coverage of ensembles, it can be calibrated anew.

    Raises:
        ConfigError: if the file cannot be read, is not valid, or names files that don't exist.
    """
    document = read_yaml(path)
    if document is None:
        raise ConfigError(f"{path}: is empty, it needs at least `members:`")
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: should be a mapping with the key `members:`")
    if not with_conformal:
        _drop_conformal(document.get("ensembles"))
    return validated(document, path)


def validated(
    document: Mapping[str, Any],
    path: Path,
    *,
    directory: Path | None = None,
    files: dict[Path, FileSource] | None = None,
) -> Config:
    """Return the configuration in a document, with the environment's overrides.

    Args:
        document: the content of a configuration file; sections may be validated already.
        path: what it was read from, for messages.
        directory: which its paths are relative to; that of `path` if absent.
        files: what the sections that are validated already want fetched or checked.

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
    if missing := [f"{path}: {line}" for line in _missing_files(config)]:
        raise ConfigError(missing)
    return config


def _drop_conformal(ensembles: Any) -> None:
    for ensemble in ensembles.values() if isinstance(ensembles, dict) else ():
        if isinstance(ensemble, dict) and ensemble.pop("conformal", None) is not None:
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


def _missing_files(config: Config) -> Iterator[str]:
    for key, path in file_paths(config):
        if path in config.files and config.files[path].scheme:
            continue  # it is fetched later
        try:
            is_directory = key.rpartition(".")[2] in DIRECTORY_KEYS
            if not (path.is_dir() if is_directory else path.is_file()):
                yield f"{key}: there is no {'directory' if is_directory else 'file'} {path}"
        except OSError as error:
            yield f"{key}: cannot look at {path}: {error.strerror}"


def file_paths(value: Any, key: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the files that a section, or the configuration, names, by key."""
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, BaseModel | dict):
        for name, inner in value.items() if isinstance(value, dict) else value:
            yield from file_paths(inner, f"{key}.{name}" if key else name)


def problem_lines(
    error: ValidationError, source: str, *, overrides: Container[str] = (), is_secret: bool = False
) -> Iterator[str]:
    """Yield ``SOURCE: KEY: PROBLEM`` for each problem, or the variable that overrides its key."""
    for location, message in describe(error, is_secret=is_secret):
        if len(location) > 1 and location[0] == "server" and location[1] in overrides:
            name = f"{PREFIX}SERVER{NESTED}{str(location[1]).upper()}"
            yield f"environment: {name}: {message}"
        else:
            yield ": ".join(filter(None, (source, ".".join(map(str, location)), message)))


def describe(error: ValidationError, *, is_secret: bool = False) -> Iterator[tuple[Location, str]]:
    """Yield the location and a one-line description of each problem.

    Values are left out of the messages if `is_secret`; those of API keys always are.
    """
    seen = set()
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # its elements are reported themselves
        # Tags of unions (`<file>`) and `[key]` are pydantic's, not part of the document.
        location = tuple(p for p in detail["loc"] if not str(p).startswith(("<", "[")))
        text = _message(detail, location, is_secret or _SECRET in location)
        for line in text.splitlines():
            # One number that stands for three channels is one problem.
            place = location[:-1] if location and isinstance(location[-1], int) else location
            if (place, line) not in seen:
                yield location, line
            seen.add((place, line))


def _message(detail: ErrorDetails, location: Location, is_secret: bool) -> str:
    kind, value = detail["type"], detail["input"]
    if isinstance(value, UnknownKey):
        keys = value.valid_keys
        return "unknown key" + (
            did_you_mean(str(location[-1]), keys) or f", the keys here are {', '.join(keys)}"
        )
    if kind == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    text = _MESSAGES.get(kind) or detail["msg"].removeprefix("Input ").removeprefix("Value ")
    if kind == "missing" or is_secret or not isinstance(value, str | int | float | None):
        return text
    text += f", not {'empty' if value is None else repr(value)}"
    if kind == "literal_error" and isinstance(value, str):
        choices = detail["ctx"]["expected"].replace(" or ", ", ").split(", ")
        text += did_you_mean(value, [choice.strip("'") for choice in choices])
    return text
