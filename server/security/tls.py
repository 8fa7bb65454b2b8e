"""TLS contexts of Python's ssl module, made of the contents of PEM files.

Runs in the supervisor and in `ensembled check`, to validate the files, and in the front-end, for
HTTP. gRPC has its own TLS implementation and takes the same files.
"""

from __future__ import annotations

import os
import ssl

from server.errors import ConfigError
from server.security.spec import TlsFiles
from workers.runtime.memory import create_memory

__all__ = ["HANDSHAKE_S", "make_context"]

#: Clients that take longer for the handshake are disconnected, over both protocols.
HANDSHAKE_S = 10.0

_KEY = "server.tls.key"
#: OpenSSL's reasons for a key of another certificate: of the same type, and of another.
_KEY_MISMATCH = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}


def make_context(files: TlsFiles) -> ssl.SSLContext:
    """Make a server's context: TLS 1.2 or later, ciphers with forward secrecy.

    Raises `ConfigError` naming the configuration key of an invalid file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files.certificate, "certificate")
    _load_key(context, files)
    if files.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, files.client_ca, "client_ca")
    return context


def _trust(context: ssl.SSLContext, pem: bytes, key: str) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"server.tls.{key}: the file holds no certificate (PEM)") from None


def _load_key(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Load certificate and key, which the ssl module reads from a file only."""
    is_encrypted = False

    def password() -> bytes:  # else OpenSSL prompts at the terminal
        nonlocal is_encrypted
        is_encrypted = True
        return b""

    pem = files.certificate.rstrip() + b"\n" + files.key
    fd = create_memory(len(pem))
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/dev/fd/{fd}", password=password)
    except ssl.SSLError as error:
        if is_encrypted:
            raise ConfigError(f"{_KEY}: the key must not be encrypted") from None
        if error.reason in _KEY_MISMATCH:
            raise ConfigError(f"{_KEY}: it is not the key of server.tls.certificate") from None
        if error.reason is not None:  # too weak, for instance
            why = error.reason.lower().replace("_", " ")
            raise ConfigError(f"server.tls: OpenSSL does not take the files: {why}") from None
        raise ConfigError(f"{_KEY}: the file holds no private key (PEM)") from None
    finally:
        os.close(fd)
