"""Where the load goes, and how. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from ensembled_client.load.errors import UsageError

__all__ = ["PROTOCOLS", "Target"]

PROTOCOLS = ("binary", "json", "grpc")
_PORTS = {"http": 80, "https": 443, "grpc": 8001, "grpcs": 8001}


@dataclass(frozen=True)
class Target:
    """A model at a server.

    Attributes:
        url: as it was given.
        host: name or address.
        port: of the server.
        is_secure: whether the connection is TLS.
        protocol: ``binary``, ``json`` or ``grpc``.
        prefix: of the path, without a slash at its end.
        model: the name.
    """

    url: str
    host: str
    port: int
    is_secure: bool
    protocol: str
    prefix: str
    model: str

    @classmethod
    def of(cls, url: str, model: str, protocol: str | None) -> Target:
        """Take a URL apart.

        Args:
            url: ``http[s]://HOST[:PORT][/PREFIX]`` or ``grpc[s]://HOST[:PORT]``.
            model: an ensemble's or a member's name.
            protocol: one of `PROTOCOLS`; None for what the URL suggests, binary for HTTP.

        Raises:
            UsageError: if the URL is none, or does not fit the protocol.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{url!r} is not a URL: {error}") from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise UsageError(
                f"{url!r} is not the URL of a server: http://HOST:8000 or grpc://HOST:8001"
            )
        is_grpc = parts.scheme.startswith("grpc")
        protocol = protocol or ("grpc" if is_grpc else "binary")
        if is_grpc != (protocol == "grpc"):
            wanted = "grpc://HOST:8001" if protocol == "grpc" else "http://HOST:8000"
            raise UsageError(f"the protocol {protocol} needs a URL like {wanted}, not {url}")
        return cls(
            url,
            parts.hostname,
            port or _PORTS[parts.scheme],
            parts.scheme.endswith("s"),
            protocol,
            parts.path.rstrip("/"),
            model,
        )

    @property
    def authority(self) -> str:
        """``HOST:PORT``, as it is written in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def model_path(self) -> str:
        """Where the model is, over HTTP."""
        return f"{self.prefix}/v2/models/{quote(self.model, safe='')}"
