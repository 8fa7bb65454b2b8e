"""The certificates of the gRPC server, which can change while it runs.

Runs in the front-end. gRPC asks for news before it shakes hands with a client, in threads of its
own.
"""

from __future__ import annotations

from typing import Any

import grpc

from server.security.spec import TlsFiles

__all__ = ["Certificates"]


class Certificates:
    """Hands out the newest certificates."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files

    def renew(self, files: TlsFiles) -> None:
        """Hand out others from now on. Whether clients need certificates stays as it was."""
        self._files = files

    def credentials(self) -> Any:
        """The credentials of a server."""
        given = self._files

        def news() -> Any:
            nonlocal given
            if self._files is given:
                return None
            given = self._files
            return _configuration(given)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given), news, require_client_authentication=bool(given.client_ca)
        )


def _configuration(files: TlsFiles) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificate)], root_certificates=files.client_ca or None
    )
