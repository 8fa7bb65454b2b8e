"""Certificates of authorities that nobody else knows, in files, for tests of TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import grpc
import trustme


class Authority:
    """An authority, and what it has signed.

    Args:
        directory: where its files go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.path = directory / "authority.pem"
        self._authority.cert_pem.write_to_path(self.path)

    def sign(self, name: str, *identities: str, **dates: datetime) -> tuple[Path, Path]:
        """Sign a certificate with this common name; the paths of it and of its key.

        Args:
            name: the common name.
            identities: what it is for; this machine if there are none.
            dates: `not_before` and `not_after`.
        """
        signed = self._authority.issue_cert(
            *(identities or ("localhost", "127.0.0.1")),
            common_name=name,
            key_type=trustme.KeyType.ECDSA,
            **dates,
        )
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}-key.pem"
        certificate.unlink(missing_ok=True)
        for blob in signed.cert_chain_pems:
            blob.write_to_path(certificate, append=True)
        signed.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return certificate, key

    def context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What trusts this authority, and shows a client's certificate."""
        context = ssl.create_default_context(cafile=str(self.path))
        if client is not None:
            context.load_cert_chain(*client)
        return context

    def credentials(self, client: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
        """The same for gRPC."""
        certificate, key = client or (None, None)
        return grpc.ssl_channel_credentials(
            self.path.read_bytes(),
            key.read_bytes() if key else None,
            certificate.read_bytes() if certificate else None,
        )


@contextmanager
def encrypted(address: str, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A TLS connection to HOST:PORT, for whatever protocol."""
    host, _, port = address.rpartition(":")
    context.set_alpn_protocols(["http/1.1", "h2"])  # each server takes its own
    plain = socket.create_connection((host, int(port)))
    with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        yield connection
