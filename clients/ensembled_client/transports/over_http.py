"""HTTP/1.1 with httpcore, httpx's engine: blocking, and for asyncio.

Runs in the caller's process; calls in, replies out. httpcore is used without httpx around it,
which builds a request and a response object anew every time: with it a one-row request takes
about 0.4 ms longer.
"""

from __future__ import annotations

import ssl
from abc import abstractmethod
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore

from ensembled_client.addresses import Address, Options
from ensembled_client.errors import (
    DeadlineExceeded,
    EnsembledClientError,
    RequestRejected,
    ServerFailure,
    Unavailable,
)
from ensembled_client.exchange import InferRequest, Link, Topic
from ensembled_client.rest import Call, Rest
from ensembled_client.rest_answers import Reply, answer_of, document_of
from ensembled_client.transports.connections import (
    AsyncConnections,
    AsyncThroughProxy,
    Connections,
    ThroughProxy,
)
from ensembled_client.wire import InferResponse

__all__ = ["AsyncHttpLink", "HttpLink"]

#: The server closes a connection that was idle for 75 s, proxies often after 60: be well before
#: them, so that a request hardly ever meets a connection that is just being closed.
_KEEP_IDLE_S = 30.0


class _HttpLink(Link):
    """What both have in common: everything but the exchange."""

    def __init__(self, address: Address, options: Options) -> None:
        self._rest = Rest(address, options)
        self._address = address
        self._options = options
        self._urls: dict[bytes, httpcore.URL] = {}  # a few for each model

    async def infer(self, request: InferRequest, limit_s: float | None) -> InferResponse:
        """Have a model predict."""
        return answer_of(await self._exchange(self._rest.infer(request), limit_s))

    async def look_up(self, topic: Topic, limit_s: float) -> Any:
        """Ask about something."""
        reply = await self._exchange(self._rest.look_up(topic), limit_s)
        return document_of(topic, reply)

    def overhead_bytes(self, request: InferRequest) -> int:
        """Return how much of a request's body is not raw tensors."""
        return self._rest.overhead_bytes(request)

    @abstractmethod
    async def _exchange(self, call: Call, limit_s: float | None) -> Reply:
        """Send a call and read its reply."""

    def _request(self, call: Call, limit_s: float | None) -> httpcore.Request:
        connect_s = self._options.connect_timeout_s
        timeout = {
            "connect": connect_s if limit_s is None else min(connect_s, limit_s),
            "pool": limit_s,
            "read": limit_s,
            "write": limit_s,
        }
        # A body is both kinds of iterable.
        content: Any = call.body
        return httpcore.Request(
            call.method,
            self._url(call.target),
            headers=call.headers,
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


class HttpLink(_HttpLink):
    """Blocking; may be shared by threads."""

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address, options)
        settings = _settings(address, options)
        proxy = _proxy(address)
        self._connections = (
            Connections(options.connections, settings)
            if proxy is None
            else ThroughProxy(httpcore.HTTPProxy(proxy, **_trusting(settings)))
        )

    async def _exchange(self, call: Call, limit_s: float | None) -> Reply:
        try:
            return Reply(*self._connections.exchange(self._request(call, limit_s)))
        except _ERRORS as error:
            raise _typed(error) from error

    async def close(self) -> None:
        """Close the connections."""
        self._connections.close()


class AsyncHttpLink(_HttpLink):
    """For asyncio; may be shared by the tasks of one event loop."""

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address, options)
        settings = _settings(address, options)
        proxy = _proxy(address)
        self._connections = (
            AsyncConnections(options.connections, settings)
            if proxy is None
            else AsyncThroughProxy(httpcore.AsyncHTTPProxy(proxy, **_trusting(settings)))
        )

    async def _exchange(self, call: Call, limit_s: float | None) -> Reply:
        try:
            return Reply(*await self._connections.exchange(self._request(call, limit_s)))
        except _ERRORS as error:
            raise _typed(error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.aclose()


def _settings(address: Address, options: Options) -> dict[str, Any]:
    """What every connection is made with."""
    origin = httpcore.Origin(address.scheme.encode(), address.host.encode("ascii"), address.port)
    settings: dict[str, Any] = {"origin": origin, "keepalive_expiry": _KEEP_IDLE_S}
    if address.is_encrypted:
        settings["ssl_context"] = _tls(options)
    return settings


def _trusting(settings: dict[str, Any]) -> dict[str, Any]:
    """The same for a proxy's pool, which finds the origin in each request."""
    return {name: value for name, value in settings.items() if name != "origin"}


def _proxy(address: Address) -> str | None:
    """The environment's proxy for this server, if there is one."""
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(address.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _tls(options: Options) -> ssl.SSLContext:
    """What to trust, and which certificate to show."""
    context = _trust(options)
    if options.certificate is not None and options.key is not None:
        try:
            context.load_cert_chain(options.certificate, options.key)
        except ssl.SSLError as error:
            raise EnsembledClientError(
                f"{options.certificate} and {options.key} are no certificate and its key ({error})"
            ) from None
    return context


def _trust(options: Options) -> ssl.SSLContext:
    """A file, or what SSL_CERT_FILE names, or the usual authorities."""
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
    # For asyncio, an alert that comes after the handshake: in TLS 1.3 that is how a server tells
    # that it wants another certificate.
    ssl.SSLError,
)


def _typed(error: Exception) -> EnsembledClientError:
    """Return what it means that a request could not be sent, or got no reply."""
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
