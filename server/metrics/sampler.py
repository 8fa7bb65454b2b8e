"""Samples from the kernel or a driver: taken in a thread, and cached for a second.

Runs in the front-end. A slow driver never blocks the event loop; a scrape waits a moment for it and
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
_TIMEOUT_S = 1.0

_Sample = TypeVar("_Sample")


class Sampler(Generic[_Sample]):
    """Takes samples, one at a time and at most once a second.

    `take` is called in a thread of its own, which a hanging driver blocks; `sample` waits
    `timeout_s`.
    """

    def __init__(
        self,
        take: Callable[[], _Sample],
        name: str,
        *,
        timeout_s: float = _TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take = take
        self._thread = ThreadPoolExecutor(1, name)
        self._timeout_s = timeout_s
        self._clock = clock
        self._taking: asyncio.Future[_Sample] | None = None
        self._began = 0.0

    async def sample(self) -> _Sample:
        """Return the latest sample, or a fresh one if that is old; raises whatever `take` raised.

        Raises `TimeoutError` if that takes too long; a later call may get the result.
        """
        now = self._clock()
        taking = self._taking
        if taking is None or (taking.done() and now - self._began > _FRESH_S):
            self._began = now
            taking = asyncio.get_running_loop().run_in_executor(self._thread, self._take)
            taking.add_done_callback(_retrieve_error)
            self._taking = taking
        done, _ = await asyncio.wait({taking}, timeout=self._timeout_s)
        if not done:
            raise TimeoutError("the sample takes too long")
        return taking.result()


def _retrieve_error(taken: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging an error that nobody has retrieved."""
    if not taken.cancelled():
        taken.exception()
