"""The two ways to run a session: blocking, and under asyncio.

Runs in the caller's process. A session is written once, as coroutines over a link and a runtime.
If both are blocking ones, none of its awaits ever suspends, and `run` drives it to its end.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

__all__ = ["AsyncioRuntime", "BlockingRuntime", "Runtime", "run"]

T = TypeVar("T")

#: How many pieces of a split request are under way at once: enough to keep a server busy.
_AT_ONCE = 4


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking client's coroutine has been suspended")


class Runtime(ABC):
    """Time, chance and concurrency, as a session needs them."""

    def now(self) -> float:
        """Return seconds on a clock that only goes forward."""
        return time.monotonic()

    def uniform(self, low: float, high: float) -> float:
        """Return a random number between two."""
        return random.uniform(low, high)

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    async def offload(self, work: Callable[[], T]) -> T:
        """Do what may read files or copy much, where it holds nobody up."""

    @abstractmethod
    async def gather(self, jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Do all jobs; the first error ends the others."""


class BlockingRuntime(Runtime):
    """For `EnsembleClient`: one thing after another, in the caller's thread."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251  (there is no event loop)

    async def offload(self, work: Callable[[], T]) -> T:
        """Do it here."""
        return work()

    async def gather(self, jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Do them one after another."""
        return [await job() for job in jobs]


class AsyncioRuntime(Runtime):
    """For `AsyncEnsembleClient`: a few jobs at once, in the running event loop."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def offload(self, work: Callable[[], T]) -> T:
        """Do it in a thread."""
        return await asyncio.to_thread(work)

    async def gather(self, jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Do a few of them at once."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def do(job: Callable[[], Awaitable[T]]) -> T:
            async with slots:
                return await job()

        tasks = [asyncio.ensure_future(do(job)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
