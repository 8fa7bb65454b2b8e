"""What other threads of a process leave for its loop, which may sleep.

Used in workers and in the combiner: the supervisor's commands, and what was loaded in a thread,
flow in; the loop takes them out between two jobs. A pipe ends the loop's sleep.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

_CHUNK_BYTES = 4096

_T = TypeVar("_T")


class Mailbox(Generic[_T]):
    """A queue from any thread to the loop's.

    Attributes:
        items: what was put in and not yet taken out; the loop only looks whether it is empty.
        descriptor: becomes readable whenever something is put in.
    """

    def __init__(self) -> None:
        self.items: deque[_T] = deque()
        self.descriptor, self._bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def put(self, item: _T) -> None:
        """Append an item, and wake the loop."""
        self.items.append(item)
        with contextlib.suppress(BlockingIOError):  # it is full of bells that nobody has heard
            os.write(self._bell, b"\0")

    def take(self) -> list[_T]:
        """Remove and return all items, in the order in which they were put in."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, _CHUNK_BYTES)
        return [self.items.popleft() for _ in range(len(self.items))]
