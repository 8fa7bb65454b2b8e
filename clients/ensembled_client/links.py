"""The link for a URL; runs when a client is made. grpcio is imported only if a URL asks for it."""

from __future__ import annotations

from typing import Any

from ensembled_client.addresses import Address, Options
from ensembled_client.errors import EnsembledClientError
from ensembled_client.exchange import Link
from ensembled_client.transports.over_http import AsyncHttpLink, HttpLink

__all__ = ["make_link"]


def make_link(url: str, options: Options, *, for_asyncio: bool) -> Link:
    """Return a link to a server; it connects at the first request.

    Args:
        url: http://, https://, grpc:// or grpcs://.
        options: how to speak with it.
        for_asyncio: or blocking.

    Raises:
        EnsembledClientError: if the URL is not one of those, or grpcio is missing.
    """
    address = Address.of(url)
    if not address.is_grpc:
        return (AsyncHttpLink if for_asyncio else HttpLink)(address, options)
    over_grpc = _import_grpc(url)
    kind = over_grpc.AsyncGrpcLink if for_asyncio else over_grpc.GrpcLink
    link: Link = kind(address, options)
    return link


def _import_grpc(url: str) -> Any:
    try:
        from ensembled_client.transports import over_grpc  # noqa: PLC0415
    except ImportError as error:
        if (error.name or "").split(".")[0] not in {"grpc", "google"}:
            raise
        raise EnsembledClientError(
            f"{url}: gRPC needs two more packages: pip install 'ensembled-client[grpc]'"
        ) from error
    return over_grpc
