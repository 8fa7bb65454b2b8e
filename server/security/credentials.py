"""Reads and validates the files of `server.tls` and `server.api_keys_file`.

Runs in the supervisor, at its start and on reload, and in `ensembled check`. The front-end opens
none of these files: it gets their validated contents, as a `SecuritySpec`.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from pydantic import TypeAdapter, ValidationError

from server.config import ApiKeyConfig, ServerConfig
from server.config.problems import problem_lines
from server.config.yaml_file import read_yaml
from server.errors import ConfigError
from server.security.spec import ApiKey, SecuritySpec, TlsFiles
from server.security.tls import make_context

__all__ = ["Credentials", "read_credentials"]

_ApiKeys = tuple[ApiKeyConfig, ...]
_validate = TypeAdapter(_ApiKeys).validate_python


class Credentials(NamedTuple):
    """Validated keys and certificates; `warnings` are of what is unsafe, one line each."""

    spec: SecuritySpec
    warnings: tuple[str, ...]


def read_credentials(server: ServerConfig) -> Credentials:
    """Read and validate keys and certificates; `ConfigError` if a file is unreadable or invalid."""
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
        warnings += _warn_of_dates(server.tls.certificate, tls.certificate)
    spec = SecuritySpec(_unique(keys), server.limits.client_requests, tls)
    return Credentials(spec, (*warnings, *_warn_of_reach(server.host, spec)))


def _read_keys(path: Path) -> _ApiKeys:
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"server.api_keys_file: others can write to {path} and let themselves in: chmod 600"
        )
    try:
        keys = _validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(problem_lines(error, str(path), is_secret=True)) from None
    if not keys:
        raise ConfigError(f"server.api_keys_file: {path} holds no keys")
    return keys


def _unique(keys: list[ApiKeyConfig]) -> tuple[ApiKey, ...]:
    """Convert the keys for the front-end; names and hashes must be unique."""
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


def _warn_of_dates(path: Path, pem: bytes) -> Iterator[str]:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:  # OpenSSL is less strict, and has accepted it
        return
    now = datetime.now(UTC)
    if now < certificate.not_valid_before_utc:
        yield f"server.tls.certificate: {path} is not valid yet"
    elif now > certificate.not_valid_after_utc:
        yield f"server.tls.certificate: {path} has expired"


def _warn_of_reach(host: str, spec: SecuritySpec) -> Iterator[str]:
    """Warn of missing protection of a server that other machines can reach."""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if is_local:
        return
    if spec.is_open:
        yield (
            f"the server listens on {host} and requires neither an API key nor a certificate: "
            "anyone who reaches it may use it (server.api_keys, server.tls.client_ca)"
        )
    elif spec.tls is None:
        yield f"the server listens on {host} without TLS: API keys can be overheard (server.tls)"
