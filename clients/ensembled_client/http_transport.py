"""HTTP/1.1 with httpcore, httpx's engine: blocking, and for asyncio.

httpx itself would build a request and a response object anew every time: about 0.4 ms more for a
one-row request. httpcore's pool goes through all connections for all waiting requests whenever one
comes or goes: 200 concurrent requests then take seconds. Here there is one server, so a stack does:
the connection used last is reused first, those that have been idle for long are closed.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar
from urllib.request import getproxies, proxy_bypass

import httpcore

from ensembled_client.changes import ChangeCall
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
    decode_change,
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
    """Everything but the operations of httpcore's two kinds of connection.

    It is shared by threads (the operations of a deque are atomic), or by tasks. Requests beyond
    `ConnectionOptions.connections` wait for one.
    """

    #: httpcore's classes; of the proxy only the way to make a connection is used.
    _connection_class: ClassVar[Any]
    _proxy_class: ClassVar[Any]
    _slots: threading.BoundedSemaphore | asyncio.Semaphore

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        self._rest = RestEncoder(address, options)
        self._address = address
        self._options = options
        self._urls: dict[bytes, httpcore.URL] = {}  # a few for each model
        self._connect = self._connector()
        self._idle: deque[Any] = deque()

    async def infer(self, call: InferCall, limit_s: float | None) -> InferResponse:
        """Have a model predict."""
        return decode_infer(await self._send(self._rest.infer(call), limit_s))

    async def look_up(
        self, resource: Resource, model: str, limit_s: float, version: str = ""
    ) -> Any:
        """Request a document."""
        response = await self._send(self._rest.look_up(resource, model, version), limit_s)
        return decode_document(resource, response)

    async def change(self, call: ChangeCall, limit_s: float | None) -> Any:
        """Have the server change what it serves."""
        return decode_change(await self._send(self._rest.change(call), limit_s))

    def overhead_bytes(self, call: InferCall) -> int:
        """Return how much of a request's body is not raw tensors."""
        return self._rest.overhead_bytes(call)

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._close_connection(self._idle.pop())

    async def _send(self, request: RestRequest, limit_s: float | None) -> RestResponse:
        """Send a request on any connection and read its response."""
        prepared = self._prepare(request, limit_s)
        try:
            await self._acquire_slot(limit_s)
            try:
                return await self._exchange(await self._take_connection(), prepared)
            finally:
                self._slots.release()
        except _ERRORS as error:
            raise _client_error(error) from error

    async def _take_connection(self) -> Any:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not connection.has_expired():
                return connection
            await self._close_connection(connection)
        return self._connect()

    async def _exchange(self, connection: Any, request: httpcore.Request) -> RestResponse:
        try:
            response = await self._send_on(connection, request)
        except BaseException:
            await self._close_connection(connection)
            raise
        if connection.is_idle():
            self._idle.append(connection)
            await self._close_oldest()
        else:
            await self._close_connection(connection)
        return response

    async def _close_oldest(self) -> None:
        """Close one connection that was not needed for long, if there is one."""
        try:
            oldest = self._idle.popleft()
        except IndexError:
            return
        if oldest.has_expired():
            await self._close_connection(oldest)
        else:
            self._idle.appendleft(oldest)

    @abstractmethod
    async def _acquire_slot(self, limit_s: float | None) -> None:
        """Wait until there may be another connection; PoolTimeout if that takes too long."""

    @abstractmethod
    async def _send_on(self, connection: Any, request: httpcore.Request) -> RestResponse:
        """Send a request, and read its response to its end."""

    @abstractmethod
    async def _close_connection(self, connection: Any) -> None:
        """Close a connection."""

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

    def _connector(self) -> Callable[[], Any]:
        """What makes a connection to the server, through the environment's proxy if it has one."""
        address = self._address
        origin = httpcore.Origin(
            address.scheme.encode(), address.host.encode("ascii"), address.port
        )
        settings: dict[str, Any] = {"keepalive_expiry": _KEEP_IDLE_S}
        if address.is_encrypted:
            settings["ssl_context"] = _tls(self._options)
        proxy_url = _proxy_url(address)
        if proxy_url is None:
            return partial(self._connection_class, origin, **settings)
        return partial(self._proxy_class(proxy_url, **settings).create_connection, origin)


class HttpTransport(_HttpTransport):
    """Blocking; may be shared by threads."""

    _connection_class = httpcore.HTTPConnection
    _proxy_class = httpcore.HTTPProxy
    _slots: threading.BoundedSemaphore

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        super().__init__(address, options)
        self._slots = threading.BoundedSemaphore(options.connections)

    async def _acquire_slot(self, limit_s: float | None) -> None:
        if not self._slots.acquire(timeout=limit_s or threading.TIMEOUT_MAX):
            raise httpcore.PoolTimeout

    async def _send_on(self, connection: Any, request: httpcore.Request) -> RestResponse:
        response = connection.handle_request(request)
        try:
            return RestResponse(response.status, response.headers, response.read())
        finally:
            response.close()

    async def _close_connection(self, connection: Any) -> None:
        connection.close()


class AsyncHttpTransport(_HttpTransport):
    """For asyncio; may be shared by the tasks of one event loop."""

    _connection_class = httpcore.AsyncHTTPConnection
    _proxy_class = httpcore.AsyncHTTPProxy
    _slots: asyncio.Semaphore

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        super().__init__(address, options)
        self._slots = asyncio.Semaphore(options.connections)

    async def _acquire_slot(self, limit_s: float | None) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(limit_s):
                await self._slots.acquire()
        except TimeoutError:
            raise httpcore.PoolTimeout from None

    async def _send_on(self, connection: Any, request: httpcore.Request) -> RestResponse:
        response = await connection.handle_async_request(request)
        try:
            return RestResponse(response.status, response.headers, await response.aread())
        finally:
            await response.aclose()

    async def _close_connection(self, connection: Any) -> None:
        await connection.aclose()


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
