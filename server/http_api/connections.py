"""All HTTP connections: how many there may be, and how long each may wait for its client.

Runs in the front-end. A sweep goes over the connections a few times in each of their limits, at
most every two seconds, some hundred at a time: requests need no timers of their own, and a crowd of
connections delays none of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from email.utils import formatdate
from itertools import islice
from typing import TYPE_CHECKING, Any

from server.http_api.connection import Connection, Waits
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from server.http_api.fast_infer import FastInfer

__all__ = ["Connections"]

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 2.0
_LOOKS = 4
#: How long answers that are ready have to reach their clients when the server stops.
_GRACE_S = 10.0
_AT_ONCE = 256
_SCRATCH_BYTES = 1 << 18

#: Sent with every response: it is what its type says, and nobody's cache keeps it. There are no
#: pages and no cookies here, which the other headers of this kind are about.
_HEADERS = b"date: %b\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n"


class Connections:
    """The limits of connections, and who looks after them.

    Args:
        limits: of each.
        most: how many there may be.
        unread: what all answers that clients do not read may hold together.
        fast: the way of requests that need no application.

    Attributes:
        scratch: where what comes is put first, unless it has a place.
        limit_s: how long a connection may wait, by what it waits for.
        now: when the last sweep was, on the monotonic clock.
        ended: how many connections were refused or ended, by which limit.
    """

    def __init__(
        self, limits: ClientLimits, most: int, unread: UnreadResponses, fast: FastInfer
    ) -> None:
        self.limits = limits
        self.most = most
        self.limit_s = {
            Waits.IDLE: limits.idle_s,
            Waits.HEADER: limits.header_s,
            Waits.BODY: limits.body_s,
            Waits.READER: limits.write_s,
            Waits.SERVER: float("inf"),
        }
        self.now = time.monotonic()
        self.ended: Counter[str] = Counter()
        self.unread = unread
        self.fast = fast
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._second = 0
        self._common = b""
        self._open: set[Any] = set()

    def make(
        self, *, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> Connection:
        """A connection of uvicorn's server."""
        return Connection(
            connections=self,
            application=config.loaded_app,
            server_state=server_state,
            app_state=app_state,
        )

    def common_headers(self) -> bytes:
        """What all responses have, as lines."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._common = _HEADERS % formatdate(second, usegmt=True).encode()
        return self._common

    def count(self, limit: str) -> None:
        """Note that a limit has ended a connection, or refused it."""
        self.ended[limit] += 1

    def hurry(self) -> None:
        """Wait no longer than a while for readers: the server is about to stop."""
        self.limit_s[Waits.READER] = min(self.limit_s[Waits.READER], _GRACE_S)

    def statistics(self) -> dict[str, int]:
        """How many connections are open, and how many each limit has ended."""
        return {"open": len(self._open), **self.ended}

    async def sweep(self, state: ServerState) -> None:
        """Look after uvicorn's connections for ever."""
        self._open = state.connections
        pause_s = min(_LONGEST_PAUSE_S, min(self.limit_s.values()) / _LOOKS)
        while True:
            await asyncio.sleep(pause_s)
            connections = iter(list(self._open))
            while crowd := list(islice(connections, _AT_ONCE)):
                self.now = time.monotonic()
                for connection in crowd:
                    self._look(connection)
                await asyncio.sleep(0)

    def _look(self, connection: Any) -> None:
        try:
            connection.look(self.now)
        except Exception:  # the others are looked after all the same
            _log.exception("looking after a connection failed")
