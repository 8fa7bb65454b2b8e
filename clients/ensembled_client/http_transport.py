"""HTTP/1.1 with httpcore, httpx's engine: blocking, and for asyncio.

Runs in the caller's process; calls in, responses out. httpcore is used without httpx around it,
which builds a request and a response object anew every time: with it a one-row request takes
about 0.4 ms longer.
"""

from __future__ import annotations

import ssl
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore

from ensembled_client.connection_pool import AsyncConnectionPool, ConnectionPool
from ensembled_client.errors import (
    DeadlineExceeded,
    EnsembledClientError,
    RequestRejected,
    ServerFailure,
    Unavailable,
)
from ensembled_client.requests import InferCall
from ensembled_client.rest import (
    RestEncoder,
    RestRequest,
    RestResponse,
    decode_document,
    decode_infer,
)
from ensembled_client.transport import Address, ConnectionOptions, Resource, Transport
from ensembled_client.wire import InferResponse

__all__ = ["AsyncHttpTransport", "HttpTransport"]

#: The server closes a connection that was idle for 75 s, proxies often after 60: be well before
#: them, so that a request hardly ever meets a connection that is just being closed.
_KEEP_IDLE_S = 30.0


class _HttpTransport(Transport):
    """Everything but the exchange with the server."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        self._rest = RestEncoder(address, options)
        self._address = address
        self._options = options
        self._urls: dict[bytes, httpcore.URL] = {}  # a few for each model

    async def infer(self, call: InferCall, limit_s: float | None) -> InferResponse:
        """Have a model predict."""
        return decode_infer(await self._send(self._rest.infer(call), limit_s))

    async def look_up(self, resource: Resource, model: str, limit_s: float) -> Any:
        """Request a document."""
        response = await self._send(self._rest.look_up(resource, model), limit_s)
        return decode_document(resource, response)

    def overhead_bytes(self, call: InferCall) -> int:
        """Return how much of a request's body is not raw tensors."""
        return self._rest.overhead_bytes(call)

    @abstractmethod
    async def _send(self, request: RestRequest, limit_s: float | None) -> RestResponse:
        """Send a request and read its response."""

    def _prepare(self, request: RestRequest, limit_s: float | None) -> httpcore.Request:
        connect_s = self._options.connect_timeout_s
        timeout = {
            "connect": connect_s if limit_s is None else min(connect_s, limit_s),
            "pool": limit_s,
            "read": limit_s,
            "write": limit_s,
        }
        # A body is both kinds of iterable.
        content: Any = request.body
        return httpcore.Request(
            request.method,
            self._url(request.target),
            headers=request.headers,
            content=content,
            extensions={"timeout": timeout},
        )

    def _url(self, target: bytes) -> httpcore.URL:
        url = self._urls.get(target)
        if url is None:
            url = self._urls[target] = httpcore.URL(
                scheme=self._address.scheme.encode(),
                host=self._address.host.encode("ascii"),
                port=self._address.port,
                target=target,
            )
        return url

    def _connector(self, connection: Any, proxy: Any) -> Callable[[], Any]:
        """What makes a connection to the server, through the environment's proxy if it has one.

        Args:
            connection: httpcore's class.
            proxy: httpcore's class, of which only the way to make a connection is used.
        """
        address = self._address
        origin = httpcore.Origin(
            address.scheme.encode(), address.host.encode("ascii"), address.port
        )
        settings: dict[str, Any] = {"keepalive_expiry": _KEEP_IDLE_S}
        if address.is_encrypted:
            settings["ssl_context"] = _tls(self._options)
        proxy_url = _proxy_url(address)
        if proxy_url is None:
            return partial(connection, origin, **settings)
        return partial(proxy(proxy_url, **settings).create_connection, origin)


class HttpTransport(_HttpTransport):
    """Blocking; may be shared by threads."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        super().__init__(address, options)
        connect = self._connector(httpcore.HTTPConnection, httpcore.HTTPProxy)
        self._pool = ConnectionPool(options.connections, connect)

    async def _send(self, request: RestRequest, limit_s: float | None) -> RestResponse:
        try:
            return RestResponse(*self._pool.exchange(self._prepare(request, limit_s)))
        except _ERRORS as error:
            raise _client_error(error) from error

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class AsyncHttpTransport(_HttpTransport):
    """For asyncio; may be shared by the tasks of one event loop."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        super().__init__(address, options)
        connect = self._connector(httpcore.AsyncHTTPConnection, httpcore.AsyncHTTPProxy)
        self._pool = AsyncConnectionPool(options.connections, connect)

    async def _send(self, request: RestRequest, limit_s: float | None) -> RestResponse:
        try:
            return RestResponse(*await self._pool.exchange(self._prepare(request, limit_s)))
        except _ERRORS as error:
            raise _client_error(error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def _proxy_url(address: Address) -> str | None:
    """The URL of the environment's proxy for this server, if there is one."""
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(address.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _tls(options: ConnectionOptions) -> ssl.SSLContext:
    """Whom to trust, and which certificate to present."""
    context = _trusted(options)
    if options.certificate is not None and options.key is not None:
        try:
            context.load_cert_chain(options.certificate, options.key)
        except ssl.SSLError as error:
            raise EnsembledClientError(
                f"{options.certificate} and {options.key} are no certificate and its key ({error})"
            ) from None
    return context


def _trusted(options: ConnectionOptions) -> ssl.SSLContext:
    """The certificates of a file, or of what SSL_CERT_FILE names, or the usual authorities."""
    if options.root_certificates is not None:
        return ssl.create_default_context(cafile=options.root_certificates)
    import httpx  # noqa: PLC0415  (only TLS needs it, and it takes a while)

    return httpx.create_ssl_context()


_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    # For asyncio, an alert after the handshake: in TLS 1.3 that is how a server refuses the
    # certificate of a client.
    ssl.SSLError,
)


def _client_error(error: Exception) -> EnsembledClientError:
    """Return the error for a request that could not be sent, or got no response."""
    text = str(error) or type(error).__name__
    if isinstance(error, httpcore.ConnectError) and "CERTIFICATE" in text:
        # Not `Unavailable`: it won't be better at another try.
        return ServerFailure(f"the server's certificate is not trusted ({text})")
    if isinstance(error, (httpcore.ConnectError, httpcore.ConnectTimeout)):
        return Unavailable(f"the server can't be reached ({text})", safe_to_retry=True)
    if isinstance(error, httpcore.PoolTimeout):
        return DeadlineExceeded("no connection became free in time")
    if isinstance(error, httpcore.TimeoutException):
        return DeadlineExceeded(f"the server did not answer in time ({text})")
    if isinstance(error, (httpcore.LocalProtocolError, httpcore.UnsupportedProtocol)):
        return RequestRejected(f"the request can't be sent ({text})")
    return Unavailable(
        f"the connection broke ({text}); whether the server took the request is not known"
    )
