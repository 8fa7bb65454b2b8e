"""A transport that hands data to TLS only as fast as the client reads it.

Runs in the front-end. uvloop's TLS encrypts whatever is written at once and then knows neither how
much is unsent nor that the client reads nothing, so it gets one chunk at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

__all__ = ["TlsWriter"]

_CHUNK_BYTES = 1 << 16


class TlsWriter:
    """A transport that keeps what TLS does not take yet; all but writing is TLS's own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pending: deque[memoryview] = deque()
        self._pending_bytes = 0
        self._is_paused = self._is_closing = False
        transport.set_write_buffer_limits(high=_CHUNK_BYTES)

    def __getattr__(self, name: str) -> Any:
        """Everything but writing and closing is left to the transport."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when everything is sent."""
        return self._is_closing or self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """How many bytes are unsent."""
        return self._pending_bytes + self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Send `data`, or as much as is taken now, and the rest later."""
        if len(data) <= _CHUNK_BYTES and not self._pending:
            self._transport.write(data)
        elif data:
            self._pending.append(memoryview(data))
            self._pending_bytes += len(data)
            self._flush()

    def writelines(self, chunks: Iterable[bytes]) -> None:
        """Send all of them; small ones in one write."""
        chunks = tuple(chunks)
        if sum([len(chunk) for chunk in chunks]) <= _CHUNK_BYTES:
            self.write(b"".join(chunks))
        else:
            for chunk in chunks:
                self.write(chunk)

    def close(self) -> None:
        """Send what is pending, then close."""
        self._is_closing = True
        if not self._pending:
            self._transport.close()

    def abort(self) -> None:
        """Close; what is pending is dropped."""
        self._drop()
        self._transport.abort()

    def pause(self) -> None:
        """Send nothing more for now: the transport's buffer is full."""
        self._is_paused = True

    def resume(self) -> bool:
        """Send more: the buffer has space. True if nothing is pending and space is left."""
        self._is_paused = False
        self._flush()
        return not self._pending and not self._is_paused

    def _flush(self) -> None:
        while self._pending and not self._is_paused:
            if self._transport.is_closing():
                self._drop()
                return
            data = self._pending[0]
            chunk = data[:_CHUNK_BYTES]
            if len(chunk) == len(data):
                self._pending.popleft()
            else:
                self._pending[0] = data[_CHUNK_BYTES:]
            self._pending_bytes -= len(chunk)
            self._transport.write(chunk)
        if self._is_closing and not self._pending:
            self._transport.close()

    def _drop(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0
