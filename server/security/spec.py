"""What a front-end knows of keys and certificates: part of its spec, and of `Reload`.

Made in the supervisor from the configuration, used in the front-end; it travels on the front-end's
stdin only. Nothing here tells a secret when it is printed.
"""

from __future__ import annotations

import msgspec

__all__ = ["ApiKey", "SecuritySpec", "TlsFiles"]


class ApiKey(msgspec.Struct, frozen=True):
    """An API key, of which only the SHA-256 is known.

    Attributes:
        name: whose it is.
        digest: the SHA-256 of the key, 32 bytes.
        scopes: what it is good for, "infer", "admin" and "urgent".
    """

    name: str
    digest: bytes
    scopes: tuple[str, ...]

    def __repr__(self) -> str:
        """Say whose it is, and no more."""
        return f"ApiKey({self.name!r})"


class TlsFiles(msgspec.Struct, frozen=True):
    """What is in the files of `server.tls`, PEM.

    Attributes:
        certificate: the server's own, and those of authorities after it.
        key: its private key.
        client_ca: the authorities that sign clients' certificates; empty if clients need none.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes = b""

    def __repr__(self) -> str:
        """Say nothing of the key."""
        return f"TlsFiles(client_ca={bool(self.client_ca)})"


class SecuritySpec(msgspec.Struct, frozen=True):
    """Who may ask, and how connections are encrypted.

    Attributes:
        keys: of which clients must show one; nobody has to if there are none.
        client_requests: how many requests of one client are worked on at once, 0 for any number.
        tls: None if nothing is encrypted.
    """

    keys: tuple[ApiKey, ...] = ()
    client_requests: int = 0
    tls: TlsFiles | None = None

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the server may ask."""
        return not self.keys and (self.tls is None or not self.tls.client_ca)
