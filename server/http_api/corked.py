"""A transport by which a response's head and body leave in one system call.

Runs in the front-end, under every HTTP connection. uvicorn writes the head of a response as soon as
it has it, and the body right after; on a busy machine each of the two writes wakes the client and
costs more than parsing the request. Here a write waits for the next one, or for the event loop to
come round.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["CorkedTransport"]


class CorkedTransport:
    """A transport that sends writes in pairs; everything else is the transport's own.

    Args:
        transport: what really writes.
        loop: comes round to what has no partner.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        """Everything but writing and closing is left to the transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold `data` back until the next write, or send it with what was held back.

        To a client that has gone nothing is sent; uvicorn learns of it a moment later.
        """
        if self.is_closing():
            self._held = None
        elif self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            held, self._held = self._held, None
            self._transport.writelines((held, data))

    def close(self) -> None:
        """Send what is held back, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None and not self.is_closing():
            self._transport.write(held)
