"""API keys, certificates and limits of the front-end: part of its spec, and of `Reload`.

Made in the supervisor from the configuration, used in the front-end; sent on the front-end's stdin
only. No secret appears when these are printed.
"""

from __future__ import annotations

import msgspec

__all__ = ["ApiKey", "SecuritySpec", "TlsFiles"]


class ApiKey(msgspec.Struct, frozen=True):
    """An API key, of which only the SHA-256 is known.

    Attributes:
        name: of its owner.
        digest: the SHA-256 of the key, 32 bytes.
        scopes: what it allows: "infer", "admin", "urgent".
    """

    name: str
    digest: bytes
    scopes: tuple[str, ...]

    def __repr__(self) -> str:
        """Show the name only."""
        return f"ApiKey({self.name!r})"


class TlsFiles(msgspec.Struct, frozen=True):
    """Contents of the files of `server.tls`, PEM.

    Attributes:
        certificate: of the server, followed by those of intermediate authorities.
        key: its private key.
        client_ca: authorities that sign clients' certificates; empty if clients need none.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes = b""

    def __repr__(self) -> str:
        """Do not show the key."""
        return f"TlsFiles(client_ca={bool(self.client_ca)})"


class SecuritySpec(msgspec.Struct, frozen=True):
    """Access control and encryption.

    Attributes:
        keys: of which clients must present one; if there are none, they need none.
        client_requests: concurrent requests of one client, 0 for any number.
        tls: None for no encryption.
    """

    keys: tuple[ApiKey, ...] = ()
    client_requests: int = 0
    tls: TlsFiles | None = None

    @property
    def is_open(self) -> bool:
        """Whether anyone who reaches the server may use it."""
        return not self.keys and (self.tls is None or not self.tls.client_ca)
