"""Whom the certificate of a client names.

Runs in the front-end, for each new connection. The name becomes part of the state in each request's
ASGI scope, where the entrance finds it.
"""

from __future__ import annotations

import asyncio

__all__ = ["CERTIFIED", "certified_name"]

#: The key in the scope's state.
CERTIFIED = "certified"


def certified_name(transport: asyncio.Transport) -> str:
    """The common name in a client's certificate, else the first of its alternative names.

    Returns:
        "" if the client has shown no certificate.
    """
    certificate = transport.get_extra_info("peercert") or {}
    for part in certificate.get("subject", ()):
        for field, value in part:
            if field == "commonName":
                return str(value)
    for _, value in certificate.get("subjectAltName", ()):
        return str(value)
    return ""
