"""Requests over HTTP/1.1, one connection per lane. Runs in each load process.

Requests are bytes that were made before the test. The connection is kept open; when it is lost the
next request opens a new one, and that time is part of its latency, as it is for any client.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import cast

from ensembled_client.load.answers import HttpJudge, Verdict
from ensembled_client.load.lanes import Lane, OnEnd
from ensembled_client.load.response import BadResponseError, Response, ResponseReader
from ensembled_client.load.target import Target

__all__ = ["HttpLane", "connect_error"]


def connect_error(error: OSError) -> str:
    """Return the kind of error that failing to connect is."""
    text = error.strerror or str(error) or type(error).__name__
    return f"connect: {text}"


class HttpLane(Lane, asyncio.Protocol):
    """A connection to the server.

    Args:
        target: where to.
        tls: for https.
        connect_s: how long connecting may take.
        on_end: called with each answer.
    """

    __slots__ = (
        "_connect_s", "_connecting", "_judge", "_reader", "_target", "_tls", "_transport"
    )  # fmt: skip

    def __init__(
        self, target: Target, tls: ssl.SSLContext | None, connect_s: float, on_end: OnEnd
    ) -> None:
        super().__init__(on_end)
        self._target = target
        self._tls = tls
        self._connect_s = connect_s
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._reader = ResponseReader()
        self._judge = HttpJudge()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._transport is not None

    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: if that fails, or takes too long.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                await loop.create_connection(
                    lambda: self, self._target.host, self._target.port, ssl=self._tls
                )
        except TimeoutError:
            raise OSError(f"not within {self._connect_s:g} s") from None

    def send(self, request: bytes) -> None:
        """Send a request; see `Lane`."""
        self.is_busy = True
        if self._transport is not None:
            self._transport.write(request)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._open_and_send(request))

    async def _open_and_send(self, request: bytes) -> None:
        try:
            await self.open()
        except OSError as error:
            self._end(Verdict(connect_error(error)))
            return
        finally:
            if self._connecting is asyncio.current_task():
                self._connecting = None
        if self._transport is not None:
            self._transport.write(request)

    # -- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection is there, with nothing read from it yet."""
        self._drop()  # of two that raced, the last one counts
        self._transport = cast(asyncio.Transport, transport)
        self._reader = ResponseReader()
        self._judge = HttpJudge()

    def data_received(self, data: bytes) -> None:
        """Some bytes of an answer came."""
        if not self.is_busy:  # nobody has asked for these
            self._drop()
            return
        try:
            response = self._reader.feed(data)
        except BadResponseError as error:
            self.give_up(f"protocol: {error}")
            return
        if response is not None:
            self._answered(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed the connection, or the network has."""
        self._transport = None
        if not self.is_busy:
            return
        if exc is not None:
            self._end(Verdict(f"connection lost: {getattr(exc, 'strerror', None) or exc}"))
            return
        try:
            response = self._reader.end()
        except BadResponseError as error:
            self._end(Verdict(f"connection: {error}"))
        else:
            self._answered(response)

    def _answered(self, response: Response) -> None:
        verdict = self._judge.judge(response, self.rows)
        if not response.head.keeps_open:
            self._drop()
        self._end(verdict)

    # -- the end ------------------------------------------------------------------------------

    def give_up(self, error: str) -> None:
        """Close the connection instead of waiting for its answer."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._drop()
        if self.is_busy:
            self._end(Verdict(error))

    def _drop(self) -> None:
        """Forget the connection at once; what it still does concerns nobody."""
        if self._transport is not None:
            self._transport.set_protocol(_DEAF)
            self._transport.abort()
            self._transport = None

    async def close(self) -> None:
        """Close the connection."""
        self.is_busy = False
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        self._drop()


#: What an abandoned connection talks to.
_DEAF = asyncio.Protocol()
