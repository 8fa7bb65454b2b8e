"""How a client reaches a server: the URL, the connection's options, and `Transport`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ensembled_client.changes import ChangeCall
from ensembled_client.errors import EnsembledClientError
from ensembled_client.requests import InferCall
from ensembled_client.wire import InferResponse

__all__ = ["Address", "ConnectionOptions", "Resource", "Transport", "with_api_key"]

_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}


@dataclass(frozen=True)
class Address:
    """A server's URL in its parts: an IPv6 host without brackets, the path before ``/v2``."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse a URL; EnsembledClientError if this client can't connect to it."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS[parts.scheme]
        except (KeyError, ValueError):
            raise _not_a_server(url) from None
        if not parts.hostname or parts.query or parts.fragment or parts.scheme not in _PORTS:
            raise _not_a_server(url)
        if parts.username is not None:
            raise EnsembledClientError(
                "a URL holds no user and password here: give headers={'Authorization': ...}"
            )
        if parts.scheme.startswith("grpc") and parts.path.strip("/"):
            raise EnsembledClientError(f"{url!r}: a gRPC server has no path")
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def is_grpc(self) -> bool:
        """Whether the server speaks gRPC."""
        return self.scheme in {"grpc", "grpcs"}

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.scheme in {"https", "grpcs"}

    @property
    def authority(self) -> str:
        """Host and port, as gRPC and HTTP write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _not_a_server(url: str) -> EnsembledClientError:
    return EnsembledClientError(
        f"{url!r} is not the URL of a server, e.g. http://HOST:8000 or grpc://HOST:8001"
    )


@dataclass(frozen=True)
class ConnectionOptions:
    """How to connect to a server, see `EnsembleClient`; the API key is among the headers."""

    connect_timeout_s: float = 5.0
    connections: int = 100
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    compression: str | None = None
    root_certificates: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Raise EnsembledClientError if the compression is unknown, or a file is missing."""
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
    """Return headers that present an API key, if any; EnsembledClientError if it is malformed."""
    added = dict(headers or {})
    if api_key is not None:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key:
            raise EnsembledClientError("the API key has characters that no key has")
        added["Authorization"] = f"Bearer {api_key}"
    return added


class Resource(Enum):
    """What can be looked up about a server, or about a model: gRPC's method for it."""

    SERVER_METADATA = "ServerMetadata"
    SERVER_LIVE = "ServerLive"
    SERVER_READY = "ServerReady"
    REPOSITORY_INDEX = "RepositoryIndex"
    STATISTICS = "ModelStatistics"
    MODEL_METADATA = "ModelMetadata"
    MODEL_CONFIG = "ModelConfig"
    MODEL_READY = "ModelReady"


class Transport(ABC):
    """A protocol spoken with one server, over connections that are kept open.

    Methods are coroutines everywhere; those of a blocking transport never suspend (see
    `io_backend.run_blocking`), so that one session serves both clients.
    """

    @abstractmethod
    async def infer(self, call: InferCall, limit_s: float | None) -> InferResponse:
        """Have a model predict; None waits for the response without limit.

        Raises an EnsembledClientError: what the server answered instead, or why it did not.
        """

    @abstractmethod
    async def look_up(
        self, resource: Resource, model: str, limit_s: float, version: str = ""
    ) -> Any:
        """Request the document that the protocol has for it over HTTP; for readiness a bool.

        The model is "" for the server, or, of statistics, for every model; the version "" for
        the one that the server chooses. Raises as `infer`;
        `Unavailable` may stand for "not ready".
        """

    @abstractmethod
    async def change(self, call: ChangeCall, limit_s: float | None) -> Any:
        """Have the server change what it serves; returns its document, empty over gRPC.

        None waits without limit. Raises as `infer`.
        """

    @abstractmethod
    def overhead_bytes(self, call: InferCall) -> int:
        """Return how much longer a request is than its raw tensors, or a little more."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""
