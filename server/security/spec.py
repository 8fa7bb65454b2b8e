"""API keys, certificates and limits of the front-end: part of its spec, and of `Reload`.

Made in the supervisor from the configuration, used in the front-end; sent on the front-end's stdin
only. No secret appears when these are printed.
"""

from __future__ import annotations

import msgspec

__all__ = ["ApiKey", "SecuritySpec", "TlsFiles"]


class ApiKey(msgspec.Struct, frozen=True):
    """An API key, of which only the SHA-256 (32 bytes) is known; `name` is its owner's.

    `scopes` are what it allows: "infer", "admin", "urgent".
    """

    name: str
    digest: bytes
    scopes: tuple[str, ...]

    def __repr__(self) -> str:
        """Show the name only."""
        return f"ApiKey({self.name!r})"


class TlsFiles(msgspec.Struct, frozen=True):
    """Contents of the files of `server.tls`, PEM.

    `certificate` is followed by those of intermediate authorities; `client_ca` is empty if clients
    need no certificate.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes = b""

    def __repr__(self) -> str:
        """Do not show the key."""
        return f"TlsFiles(client_ca={bool(self.client_ca)})"


class SecuritySpec(msgspec.Struct, frozen=True):
    """Access control and encryption.

    Clients must present one of `keys`, if there are any; `client_requests` may run at once for one
    client, 0 is no limit.
    """

    keys: tuple[ApiKey, ...] = ()
    client_requests: int = 0
    tls: TlsFiles | None = None

    @property
    def is_open(self) -> bool:
        """Whether anyone who reaches the server may use it."""
        return not self.keys and (self.tls is None or not self.tls.client_ca)
