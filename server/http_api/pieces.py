"""A transport by which an answer enters TLS in pieces, as the client takes it.

Runs in the front-end, under every HTTP connection that is encrypted. uvloop's TLS encrypts at once
whatever is written, hands it on, and from then on knows nothing of it: neither how much is still
unsent, nor that the client reads nothing. So only as much is given to it as it asks for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

__all__ = ["PieceTransport"]

_PIECE_BYTES = 1 << 16


class PieceTransport:
    """A transport that keeps what TLS has no room for; everything else is the transport's own.

    Args:
        transport: that encrypts.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._rest: deque[memoryview] = deque()
        self._rest_bytes = 0
        self._is_paused = self._is_closing = False
        transport.set_write_buffer_limits(high=_PIECE_BYTES)

    def __getattr__(self, name: str) -> Any:
        """Everything but writing and closing is left to the transport."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when all is sent."""
        return self._is_closing or self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """How many bytes wait."""
        return self._rest_bytes + self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Send `data`, or as much as is taken now, and the rest later."""
        if len(data) <= _PIECE_BYTES and not self._rest:
            self._transport.write(data)
        elif data:
            self._rest.append(memoryview(data))
            self._rest_bytes += len(data)
            self._feed()

    def writelines(self, chunks: Iterable[bytes]) -> None:
        """Send all of them; small ones in one piece."""
        chunks = tuple(chunks)
        if sum([len(chunk) for chunk in chunks]) <= _PIECE_BYTES:
            self.write(b"".join(chunks))
        else:
            for chunk in chunks:
                self.write(chunk)

    def close(self) -> None:
        """Send what is left, then close."""
        self._is_closing = True
        if not self._rest:
            self._transport.close()

    def abort(self) -> None:
        """Close; what is left is let go of."""
        self._let_go()
        self._transport.abort()

    def pause(self) -> None:
        """Keep the rest: the transport has said that it has enough."""
        self._is_paused = True

    def resume(self) -> bool:
        """Send more: the transport has said that it can.

        Returns:
            Whether nothing is left, and there is room for more.
        """
        self._is_paused = False
        self._feed()
        return not self._rest and not self._is_paused

    def _feed(self) -> None:
        while self._rest and not self._is_paused:
            if self._transport.is_closing():
                self._let_go()
                return
            data = self._rest[0]
            piece = data[:_PIECE_BYTES]
            if len(piece) == len(data):
                self._rest.popleft()
            else:
                self._rest[0] = data[_PIECE_BYTES:]
            self._rest_bytes -= len(piece)
            self._transport.write(piece)
        if self._is_closing and not self._rest:
            self._transport.close()

    def _let_go(self) -> None:
        self._rest.clear()
        self._rest_bytes = 0
