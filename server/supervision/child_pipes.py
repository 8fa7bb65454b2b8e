"""What comes out of a child: status lines, and what is printed in it.

Runs in the supervisor. The status pipe's lines flow to a stream reader; what libraries print on
stdout or stderr flows to the log with the child's name, also what it printed just before it died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from workers.runtime.printed import PrintedLines

__all__ = ["ChildPipes"]

_CHUNK = 1 << 16
#: A pipe holds about one chunk; what a program that outlives the child goes on printing can wait.
_MOST_CHUNKS = 4


class ChildPipes:
    """The pipes of one process. To be made, and used, within the event loop.

    Args:
        name: of the child, for the log.

    Attributes:
        status: the child's status lines.
        status_fd: the child's end of them.
        printed_fd: for the child's stdout and stderr.
    """

    def __init__(self, name: str) -> None:
        self.status = asyncio.StreamReader()
        lines = PrintedLines(name)
        self._status, self.status_fd = _pipe(self.status.feed_data, self.status.feed_eof)
        try:
            self._printed, self.printed_fd = _pipe(lines.feed, lines.end)
        except OSError:
            self._status.close()
            os.close(self.status_fd)
            raise

    def release(self) -> None:
        """Close the child's ends, which it has by now, or never will."""
        os.close(self.status_fd)
        os.close(self.printed_fd)

    def drain(self) -> None:
        """Take what the child has left; for when it has ended.

        Programs that it started may live on: what they print is logged until they end.
        """
        for reader in (self._status, self._printed):
            reader.drain()


class _Reader:
    """Reads one pipe, whenever there is something, to its end."""

    def __init__(self, fd: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]):
        self._fd = fd
        self._on_data = on_data
        self._on_end = on_end
        self._is_open = True
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def drain(self) -> None:
        """Read what is there."""
        for _ in range(_MOST_CHUNKS):
            if not self._read():
                break

    def close(self) -> None:
        """Read no more."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)

    def _read(self) -> bool:
        """Whether anything was there."""
        if not self._is_open:
            return False
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, _CHUNK)
            if data:
                self._on_data(data)
            else:
                self.close()
                self._on_end()
        return bool(data)


def _pipe(on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> tuple[_Reader, int]:
    mine, theirs = os.pipe()
    return _Reader(mine, on_data, on_end), theirs
