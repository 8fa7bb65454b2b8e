"""Samples that must be asked of the kernel or of a driver: taken in a thread, and kept for a while.

Runs in the front-end. The event loop never waits for them by itself; a scrape waits a moment, and
then goes without.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

__all__ = ["Sampler"]

_FRESH_S = 1.0
_PATIENCE_S = 1.0

_Sample = TypeVar("_Sample")


class Sampler(Generic[_Sample]):
    """Takes samples, one at a time and not more often than once in a second.

    Args:
        take: takes one; called in a thread of its own, which a driver that hangs keeps.
        name: of the thread.
        patience_s: how long to wait for one.
        clock: in seconds.
    """

    def __init__(
        self,
        take: Callable[[], _Sample],
        name: str,
        *,
        patience_s: float = _PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take = take
        self._thread = ThreadPoolExecutor(1, name)
        self._patience_s = patience_s
        self._clock = clock
        self._taking: asyncio.Future[_Sample] | None = None
        self._began = 0.0

    async def sample(self) -> _Sample:
        """The latest sample, a fresh one if the latest is old.

        Raises:
            TimeoutError: if that takes too long; it goes on, for those who ask later.
            Exception: whatever taking it raised.
        """
        now = self._clock()
        taking = self._taking
        if taking is None or (taking.done() and now - self._began > _FRESH_S):
            self._began = now
            taking = asyncio.get_running_loop().run_in_executor(self._thread, self._take)
            taking.add_done_callback(_look_at_error)
            self._taking = taking
        done, _ = await asyncio.wait({taking}, timeout=self._patience_s)
        if not done:
            raise TimeoutError("it takes too long to ask")
        return taking.result()


def _look_at_error(taken: asyncio.Future[Any]) -> None:
    """Else asyncio complains of an error that nobody was there to see."""
    if not taken.cancelled():
        taken.exception()
