"""Where a server is: the URL that a client was given. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from ensembled_client.errors import EnsembledClientError

__all__ = ["Address", "Options", "with_api_key"]

_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}


@dataclass(frozen=True)
class Address:
    """A URL in its parts.

    Attributes:
        scheme: "http", "https", "grpc" or "grpcs".
        host: a name or an address, without brackets.
        port: of the server.
        path: before ``/v2``, "" for none.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL.

        Raises:
            EnsembledClientError: if it is not one that this client can speak to.
        """
        try:
            parts = urlsplit(url)
            usual = _PORTS[parts.scheme]
            port = parts.port or usual
        except (KeyError, ValueError):
            raise _not_one(url) from None
        if not parts.hostname or parts.query or parts.fragment:
            raise _not_one(url)
        _check(parts, url)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def is_grpc(self) -> bool:
        """Whether it is a gRPC server's."""
        return self.scheme in {"grpc", "grpcs"}

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme in {"https", "grpcs"}

    @property
    def authority(self) -> str:
        """Host and port, as gRPC and HTTP write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _not_one(url: str) -> EnsembledClientError:
    return EnsembledClientError(
        f"{url!r} is not the URL of a server, e.g. http://HOST:8000 or grpc://HOST:8001"
    )


def _check(parts: SplitResult, url: str) -> None:
    if parts.username is not None:
        raise EnsembledClientError(
            "a URL holds no user and password here: give headers={'Authorization': ...}"
        )
    if parts.scheme.startswith("grpc") and parts.path.strip("/"):
        raise EnsembledClientError(f"{url!r}: a gRPC server has no path")


@dataclass(frozen=True)
class Options:
    """How to speak with a server.

    Attributes:
        connect_timeout_s: how long connecting may take.
        connections: how many there are at most (HTTP; gRPC needs one).
        headers: sent with every request (gRPC: its metadata), the API key among them.
        compression: of requests, "gzip" or "deflate"; None for none.
        root_certificates: a file (PEM) with the certificates to trust instead of the usual ones.
        certificate: a file (PEM) with the certificate that the server is shown.
        key: a file (PEM) with the certificate's private key.
    """

    connect_timeout_s: float = 5.0
    connections: int = 100
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    compression: str | None = None
    root_certificates: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            EnsembledClientError: if there is no such compression, or no such file.
        """
        if self.compression not in {None, "gzip", "deflate"}:
            raise EnsembledClientError(f"compression is gzip or deflate, not {self.compression!r}")
        if (self.certificate is None) != (self.key is None):
            raise EnsembledClientError("a certificate and its key go together")
        for what, path in (
            ("root certificates", self.root_certificates),
            ("certificate", self.certificate),
            ("key", self.key),
        ):
            if path is not None and not Path(path).is_file():
                raise EnsembledClientError(f"no {what} at {path}")


def with_api_key(headers: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    """Headers, and among them the one that shows an API key.

    Raises:
        EnsembledClientError: if the key can't be a header's text.
    """
    added = dict(headers or {})
    if api_key is not None:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key:
            raise EnsembledClientError("the API key has characters that no key has")
        added["Authorization"] = f"Bearer {api_key}"
    return added
