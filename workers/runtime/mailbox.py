"""What other threads of a process leave for its loop, which may sleep.

Used in workers and in the combiner: the supervisor's commands, and what was loaded in a thread,
flow in; the loop takes them out between two jobs. An eventfd ends the loop's sleep.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

_T = TypeVar("_T")


class Mailbox(Generic[_T]):
    """A queue from any thread to the loop's.

    Attributes:
        items: what was put in and not yet taken out; the loop only looks whether it is empty.
        descriptor: becomes readable whenever something is put in.
    """

    def __init__(self) -> None:
        self.items: deque[_T] = deque()
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, item: _T) -> None:
        """Append an item, and wake the loop."""
        self.items.append(item)
        os.eventfd_write(self.descriptor, 1)

    def take(self) -> list[_T]:
        """Remove and return all items, in the order in which they were put in."""
        return [self.items.popleft() for _ in range(len(self.items))]
