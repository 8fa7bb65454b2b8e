"""What all HTTP connections share: limits, counts, and the sweep that ends stalled ones.

Runs in the front-end. The sweep looks at every connection a few times within each time limit, at
most every two seconds, some hundred at a time: no request needs a timer or waits for the sweep.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import Counter
from email.utils import formatdate
from itertools import islice
from typing import TYPE_CHECKING, Any

from server.http_api.fast_infer import FastInfer
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses

if TYPE_CHECKING:
    from uvicorn.server import ServerState

__all__ = ["Connections", "WaitReason"]

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 2.0
_LOOKS = 4
#: How long responses that are ready have to reach their clients when the server stops.
_SHUTDOWN_WRITE_S = 10.0
_AT_ONCE = 256
_RECEIVE_BUFFER_BYTES = 1 << 18

#: Sent with every response: it is what its type says, and no cache keeps it. There are no pages and
#: no cookies here, which the other headers of this kind are about.
_HEADERS = b"date: %b\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n"


class WaitReason(enum.Enum):
    """What a connection waits for; all but `SERVER` have a time limit."""

    IDLE = "idle"
    HEADER = "header"
    BODY = "body"
    WRITE = "write"
    SERVER = "server"


class Connections:
    """The limits of connections, and the sweep over them, the last at `now` (monotonic).

    `unread` limits what all responses that clients do not read hold together; `limit_s` is how long
    a connection may wait, by what it waits for; `ended` counts those refused or ended, by limit.
    """

    def __init__(
        self, limits: ClientLimits, max_connections: int, unread: UnreadResponses, fast: FastInfer
    ) -> None:
        self.limits = limits
        self.max_connections = max_connections
        self.limit_s = {
            WaitReason.IDLE: limits.idle_s,
            WaitReason.HEADER: limits.header_s,
            WaitReason.BODY: limits.body_s,
            WaitReason.WRITE: limits.write_s,
            WaitReason.SERVER: float("inf"),
        }
        self.now = time.monotonic()
        self.ended: Counter[str] = Counter()
        self.unread = unread
        self.fast = fast
        self.receive_buffer = memoryview(bytearray(_RECEIVE_BUFFER_BYTES))
        self._second = 0
        self._common_headers = b""
        self._open: set[Any] = set()

    def common_headers(self) -> bytes:
        """What all responses have, as lines."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._common_headers = _HEADERS % formatdate(second, usegmt=True).encode()
        return self._common_headers

    def count(self, limit: str) -> None:
        """Count a connection that a limit has ended, or refused."""
        self.ended[limit] += 1

    def shorten_write_limit(self) -> None:
        """Wait only briefly for clients that do not read: the server is about to stop."""
        limit_s = self.limit_s
        limit_s[WaitReason.WRITE] = min(limit_s[WaitReason.WRITE], _SHUTDOWN_WRITE_S)

    def statistics(self) -> dict[str, int]:
        """How many connections are open, and how many each limit has ended."""
        return {"open": len(self._open), **self.ended}

    async def sweep(self, state: ServerState) -> None:
        """Check uvicorn's connections, forever."""
        self._open = state.connections
        pause_s = min(_LONGEST_PAUSE_S, min(self.limit_s.values()) / _LOOKS)
        while True:
            await asyncio.sleep(pause_s)
            connections = iter(list(self._open))
            while some := list(islice(connections, _AT_ONCE)):
                self.now = time.monotonic()
                for connection in some:
                    self._check(connection)
                await asyncio.sleep(0)

    def _check(self, connection: Any) -> None:
        try:
            connection.check_time_limit(self.now)
        except Exception:  # the others are checked all the same
            _log.exception("checking a connection failed")
