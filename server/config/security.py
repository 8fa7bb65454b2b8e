"""The `server.tls` and `server.api_keys` sections: who may ask, and how connections are encrypted.

Runs in the process that reads the configuration file; the sections flow in as mappings and out as
frozen models. No message about them repeats a value: people paste keys where hashes belong.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, field_validator

from server.config.base import Name, RelativePath, Section

__all__ = ["ApiKeyConfig", "KeyHash", "Scope", "TlsConfig"]

_PATTERN = "sha256:[0-9a-f]{64}"

Scope = Literal["infer", "admin"]


def _check_hash(value: Any) -> Any:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not re.fullmatch(_PATTERN, text):
        raise ValueError("should be sha256: and 64 hexadecimal digits, see `ensembled key`")
    return value


KeyHash = Annotated[
    SecretStr,
    BeforeValidator(_check_hash),
    WithJsonSchema({"type": "string", "pattern": f"^{_PATTERN}$"}),
]


class TlsConfig(Section):
    """Files (PEM) with which HTTP and gRPC are encrypted; SIGHUP has them read anew."""

    certificate: RelativePath
    """The server's certificate, and those of the authorities between it and the root."""
    key: RelativePath
    """The certificate's private key, not encrypted; its owner alone should be able to read it."""
    client_ca: RelativePath | None = None
    """Certificates of authorities: only clients with a certificate that one of them has signed
    may connect."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_contents(cls, value: Any) -> Any:
        if "-----BEGIN" in str(value):
            raise ValueError("should be the path of a file, not what is in it")
        return value


class ApiKeyConfig(Section):
    """An API key that clients may show; `ensembled key NAME` makes one, and its entry."""

    name: Name
    """Whose it is; logs and limits go by it."""
    hash: KeyHash
    """`sha256:` and the SHA-256 of the key, in hexadecimal digits."""
    scopes: tuple[Scope, ...] = Field(default=("infer",), min_length=1)
    """What it is good for: `infer` is asking models; `admin` is statistics, metrics, the list of
    all models and the API's description. Either may ask what a model is like."""
