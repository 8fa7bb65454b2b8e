"""The `server.tls` and `server.api_keys` sections: who may ask, and how connections are encrypted.

Runs in the process that reads the configuration file; the sections flow in as mappings and out as
frozen models. No message about them repeats a value: people paste keys where hashes belong.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema

from server.config.base import Name, RelativePath, Section

__all__ = ["ApiKeyConfig", "KeyHash", "Scope", "SecretFile", "TlsConfig"]

_PATTERN = "sha256:[0-9a-f]{64}"

Scope = Literal["infer", "admin", "urgent"]


def _check_hash(value: Any) -> Any:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not re.fullmatch(_PATTERN, text):
        raise ValueError("should be sha256: and 64 hexadecimal digits, see `ensembled key`")
    return value


def _refuse_contents(value: Any) -> Any:
    if "\n" in str(value):
        raise ValueError("should be the path of a file, not what is in it")
    return value


SecretFile = Annotated[RelativePath, BeforeValidator(_refuse_contents)]

KeyHash = Annotated[
    SecretStr,
    BeforeValidator(_check_hash),
    WithJsonSchema({"type": "string", "pattern": f"^{_PATTERN}$"}),
]


class TlsConfig(Section):
    """Files (PEM) with which HTTP and gRPC are encrypted; SIGHUP has them read anew."""

    certificate: SecretFile
    """The server's certificate, and those of the authorities between it and the root."""
    key: SecretFile
    """The certificate's private key, not encrypted; its owner alone should be able to read it."""
    client_ca: SecretFile | None = None
    """Certificates of authorities: only clients with a certificate that one of them has signed
    may connect."""


class ApiKeyConfig(Section):
    """An API key that clients may show; `ensembled key NAME` makes one, and its entry."""

    name: Name
    """Whose it is; logs and limits go by it."""
    hash: KeyHash
    """`sha256:` and the SHA-256 of the key, in hexadecimal digits."""
    scopes: tuple[Scope, ...] = Field(default=("infer",), min_length=1)
    """What it is good for: `infer` is asking models; `admin` is statistics, metrics, the list of
    all models and the API's description; `urgent`, beside `infer`, is asking with `priority: 1`,
    for which no scope is needed as long as no key has this one. Any key may ask what a model is
    like."""
