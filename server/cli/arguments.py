"""Arguments that several commands have, and what is made of them.

Runs in the process of the command line. What the user typed flows in; a configuration and a
client's credentials flow out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.errors import ConfigError

if TYPE_CHECKING:
    from server.config import Config

__all__ = [
    "LOCAL_URL",
    "AdminKey",
    "AsJson",
    "Certificate",
    "CertificateKey",
    "ConfigPath",
    "Debug",
    "RootCertificates",
    "Seed",
    "ServerUrl",
    "byte_size",
    "credentials_of",
    "file_option",
    "load",
]


def file_option(help_text: str) -> Any:
    """An option that names a file."""
    return typer.Option(metavar="FILE", help=help_text)


ConfigPath = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        envvar="ENSEMBLED_CONFIG",
        help="Configuration: a YAML file, or a model repository.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]

ServerUrl = Annotated[
    str,
    typer.Option(
        envvar="ENSEMBLED_URL", help="URL of the server: http://, https://, grpc:// or grpcs://."
    ),
]
RootCertificates = Annotated[
    Path | None, file_option("Certificate authorities to trust (PEM), for https and grpcs.")
]
Certificate = Annotated[Path | None, file_option("Client certificate, for mutual TLS.")]
CertificateKey = Annotated[Path | None, file_option("Private key of the client certificate.")]
AdminKey = Annotated[
    str | None,
    typer.Option(
        envvar="ENSEMBLED_API_KEY", help="API key with the scope admin; safer as the variable."
    ),
]
LOCAL_URL = "http://127.0.0.1:8000"


def load(path: Path, *, with_conformal: bool = True) -> Config:
    """Return the configuration that a command is about."""
    from server.config import load_config  # noqa: PLC0415

    return load_config(path, with_conformal=with_conformal)


def byte_size(option: str, text: str | None) -> int | None:
    """Return an option's number of bytes, None if it is not given.

    Raises:
        ConfigError: if it is none.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError  # noqa: PLC0415

    try:
        return None if text is None else int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise ConfigError(
            f"{option} should be a number of bytes, such as 4096 or 8GiB, not {text!r}"
        ) from None


def credentials_of(
    root_certificates: Path | None,
    certificate: Path | None,
    certificate_key: Path | None,
    api_key: str | None,
) -> dict[str, Any]:
    """The credentials of a client of a running server, by the names that the client has."""
    return {
        "root_certificates": root_certificates,
        "certificate": certificate,
        "key": certificate_key,
        "api_key": api_key or None,
    }
