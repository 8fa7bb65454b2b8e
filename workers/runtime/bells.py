"""How a process sleeps until there is something for it, and how others wake it.

Used in the front-end, the workers and the combiner. A process that is about to sleep says so in a
cell of the shared memory, looks at its rings once more, and then waits. Whoever puts something into
one of them looks at the cell afterwards, and rings only if it says so (as virtio and io_uring
suppress notifications)::

    consumer   asleep = 1 | fence | are the rings empty? | wait        | asleep = 0
    producer                record, tail | fence | asleep? | ring

Of the two, one at least sees what the other has stored. A bell is an eventfd, or an empty ZeroMQ
message. One that is lost (its ringer was killed just before) costs time only: every wait ends after
a while by itself.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence

from workers.runtime.rings import Ring, fence

__all__ = ["Bell", "Sleeper", "make_eventfds", "ring_eventfd"]


def make_eventfds(count: int) -> tuple[int, ...]:
    """Create eventfds, for processes to come; close them with `os.close`.

    Raises:
        OSError: if no more descriptors are left.
    """
    return tuple([os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)])


def ring_eventfd(descriptor: int) -> Callable[[], None]:
    """Return what rings that bell."""

    def ring() -> None:
        os.eventfd_write(descriptor, 1)

    return ring


class Bell:
    """A process as those see it who may have to wake it.

    Attributes:
        ring: wakes it.
    """

    def __init__(self, asleep: memoryview, ring: Callable[[], None]) -> None:
        self._asleep = asleep
        self.ring = ring

    def is_needed(self) -> bool:
        """Whether the process may miss what was put into its rings just now."""
        fence()
        return bool(self._asleep[0])

    def ring_if_needed(self) -> None:
        """Wake it, if it sleeps."""
        if self.is_needed():
            self.ring()


class Sleeper:
    """The other side, in a process that has nothing else to wait for.

    Args:
        asleep: its cell.
        rings: those that it reads.
        descriptors: end its sleep, whenever they become readable: edges, not levels.
    """

    def __init__(
        self, asleep: memoryview, rings: Sequence[Ring], descriptors: Sequence[int]
    ) -> None:
        self._asleep = asleep
        self._rings = rings
        self._epoll = select.epoll()
        for descriptor in descriptors:
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something is in the rings or has happened on a descriptor, or for so long.

        Returns:
            Whether there is something, not only that the time is over.
        """
        if not self._is_idle():
            return True
        self._asleep[0] = 1
        fence()
        is_rung = self._is_idle() and self._epoll.poll(timeout_s)
        self._asleep[0] = 0
        return bool(is_rung) or not self._is_idle()

    def _is_idle(self) -> bool:
        return all([ring.is_empty for ring in self._rings])
