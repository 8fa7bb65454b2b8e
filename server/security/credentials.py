"""Reads the files that `server.tls` and `server.api_keys_file` name, and says what is unsafe.

Runs in the supervisor, at its start and when it is told to read again, and in `ensembled check`.
The configuration flows in, a `SecuritySpec` with the contents of the files and lines of warning
flow out. The front-end opens none of these files: what was found to be right is what it gets.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from server.config import ApiKeyConfig, ServerConfig
from server.config.loading import read_yaml
from server.config.problems import describe
from server.errors import ConfigError
from server.security.spec import ApiKey, SecuritySpec, TlsFiles
from server.security.tls import make_context, untimely

__all__ = ["Credentials", "read_credentials"]

_ApiKeys = tuple[ApiKeyConfig, ...]
_validate = TypeAdapter(_ApiKeys).validate_python


class Credentials(NamedTuple):
    """What the configuration says about keys and certificates, files included.

    Attributes:
        spec: for the front-end.
        warnings: what works but is not safe, in lines for people.
    """

    spec: SecuritySpec
    warnings: tuple[str, ...]


def read_credentials(server: ServerConfig) -> Credentials:
    """Read and check the keys and the certificates.

    Raises:
        ConfigError: if a file can't be read or is not what it should be.
    """
    keys = list(server.api_keys)
    warnings: list[str] = []
    if server.api_keys_file is not None:
        keys += _read_keys(server.api_keys_file)
        warnings += _warn_of_readers("api_keys_file", server.api_keys_file)
    tls = None
    if server.tls is not None:
        tls = TlsFiles(
            certificate=_read(server.tls.certificate, "tls.certificate"),
            key=_read(server.tls.key, "tls.key"),
            client_ca=_read(server.tls.client_ca, "tls.client_ca") if server.tls.client_ca else b"",
        )
        make_context(tls)
        warnings += _warn_of_readers("tls.key", server.tls.key)
        if wrong := untimely(tls):
            warnings.append(f"server.tls.certificate: {server.tls.certificate} {wrong}")
    spec = SecuritySpec(_checked(keys), server.limits.client_requests, tls)
    return Credentials(spec, (*warnings, *_warn_of_reach(server.host, spec)))


def _read_keys(path: Path) -> _ApiKeys:
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"server.api_keys_file: others can write to {path} and let themselves in: chmod 600"
        )
    try:
        keys = _validate(read_yaml(path))
    except ValidationError as error:
        lines = describe(error, _ApiKeys, is_secret=True)
        raise ConfigError(
            ": ".join(filter(None, (str(path), ".".join(map(str, location)), message)))
            for location, message in lines
        ) from None
    if not keys:
        raise ConfigError(f"server.api_keys_file: {path} holds no keys")
    return keys


def _checked(keys: list[ApiKeyConfig]) -> tuple[ApiKey, ...]:
    """The keys as the front-end knows them; none may be there twice, nor two names for one."""
    for field, of in (("name", "of that name"), ("hash", "with that hash")):
        values = [getattr(key, field) for key in keys]
        for index, key in enumerate(keys):
            if values[index] in values[:index]:
                raise ConfigError(f"server.api_keys: {key.name}: there is a key {of} already")
    return tuple(
        ApiKey(key.name, bytes.fromhex(key.hash.get_secret_value()[7:]), key.scopes) for key in keys
    )


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"server.{key}: cannot read {path}: {error.strerror}") from None


def _warn_of_readers(key: str, path: Path) -> Iterator[str]:
    if path.stat().st_mode & stat.S_IROTH:
        yield f"server.{key}: every user of this machine can read {path}: chmod 600"


def _warn_of_reach(host: str, spec: SecuritySpec) -> Iterator[str]:
    """Say what a server that others can reach is missing."""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if is_local:
        return
    if spec.is_open:
        yield (
            f"the server listens on {host} and asks nobody for a key or a certificate: whoever "
            "reaches it may use it (server.api_keys, server.tls.client_ca)"
        )
    elif spec.tls is None:
        yield f"the server listens on {host} without TLS: API keys can be overheard (server.tls)"
