"""The server and the model that requests go to, and the API key that they carry.

The parent makes a `LoadTarget` of the command line; every load process gets a copy.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from ensembled_client.errors import EnsembledClientError
from ensembled_client.load.errors import UsageError
from ensembled_client.transport import Address, with_api_key

__all__ = ["PROTOCOLS", "LoadTarget", "authorization"]

PROTOCOLS = ("binary", "json", "grpc")
_GRPC_PORT = 8001
# From the environment: a command line is visible to every user of the machine.
_API_KEY_VARIABLE = "ENSEMBLED_API_KEY"


@dataclass(frozen=True)
class LoadTarget:
    """A model at a server.

    Attributes:
        url: as given by the user.
        address: the server's.
        protocol: ``binary``, ``json`` or ``grpc``.
        model: the name of an ensemble or a member.
    """

    url: str
    address: Address
    protocol: str
    model: str

    @classmethod
    def of(cls, url: str, model: str, protocol: str | None) -> LoadTarget:
        """Parse a URL.

        Args:
            url: ``http[s]://HOST[:PORT][/PREFIX]`` or ``grpc[s]://HOST[:PORT]``.
            model: the name of an ensemble or a member.
            protocol: one of `PROTOCOLS`; None for gRPC or binary HTTP, as the URL says.

        Raises:
            UsageError: if it is not a URL of a server, or does not fit the protocol.
        """
        try:
            address = Address.of(url)
        except EnsembledClientError as error:
            raise UsageError(error.message) from None
        if address.is_grpc and urlsplit(url).port is None:
            address = dataclasses.replace(address, port=_GRPC_PORT)
        protocol = protocol or ("grpc" if address.is_grpc else "binary")
        if address.is_grpc != (protocol == "grpc"):
            wanted = "grpc://HOST:8001" if protocol == "grpc" else "http://HOST:8000"
            raise UsageError(f"the protocol {protocol} needs a URL like {wanted}, not {url}")
        return cls(url, address, protocol, model)

    @property
    def model_path(self) -> str:
        """The path of the model over HTTP."""
        return f"{self.address.path}/v2/models/{quote(self.model, safe='')}"


def authorization() -> dict[str, str]:
    """Return the header that carries the API key of the environment; empty if there is none.

    Raises:
        UsageError: if the key contains characters that no header can.
    """
    try:
        return with_api_key(None, os.environ.get(_API_KEY_VARIABLE) or None)
    except EnsembledClientError as error:
        raise UsageError(f"{_API_KEY_VARIABLE}: {error.message}") from None
