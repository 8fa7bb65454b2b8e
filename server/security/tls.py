"""TLS as Python's ssl module has it, made of what is in the files.

Used in the supervisor and by `ensembled check` to find what is wrong with the files, and in the
front-end for HTTP. gRPC has a TLS of its own and takes the same files.
"""

from __future__ import annotations

import os
import ssl

from server.errors import ConfigError
from server.security.spec import TlsFiles
from workers.runtime.memory import create_memory

__all__ = ["HANDSHAKE_S", "make_context", "untimely"]

#: A client that has not shaken hands by then is let go, over both protocols.
HANDSHAKE_S = 10.0

_KEY = "server.tls.key"
#: OpenSSL's numbers for what is wrong with a certificate's dates.
_UNTIMELY = {9: "is not valid yet", 10: "has expired"}
#: OpenSSL's words for a key of another certificate: of the same kind, and of another.
_FOREIGN_KEY = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}


def make_context(files: TlsFiles) -> ssl.SSLContext:
    """Make the context of a server: TLS 1.2 or later, ciphers with forward secrecy.

    Raises:
        ConfigError: if the files are not what they should be; the line names the key.
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


def untimely(files: TlsFiles) -> str:
    """What clients have against the certificate's dates; empty if they are right.

    Found by shaking hands, without a network, with a client that trusts it but for that: the ssl
    module tells the dates of nothing else.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _trust(trusting, files.certificate, "certificate")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there)
    server = make_context(files).wrap_bio(there, back, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return _UNTIMELY.get(error.verify_code, "")
        except ssl.SSLError:  # whatever it is, it is no date
            break
    return ""


def _trust(context: ssl.SSLContext, pem: bytes, key: str) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"server.tls.{key}: the file holds no certificate (PEM)") from None


def _load_key(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Load certificate and key, which the ssl module reads from a file and from nowhere else."""
    is_encrypted = False

    def password() -> bytes:  # else OpenSSL asks at the terminal
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
        if error.reason in _FOREIGN_KEY:
            raise ConfigError(f"{_KEY}: it is not the key of server.tls.certificate") from None
        if error.reason is not None:  # too weak, say
            why = error.reason.lower().replace("_", " ")
            raise ConfigError(f"server.tls: OpenSSL does not take the files: {why}") from None
        raise ConfigError(f"{_KEY}: the file holds no private key (PEM)") from None
    finally:
        os.close(fd)
