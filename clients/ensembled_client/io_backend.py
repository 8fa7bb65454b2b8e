"""The two ways to run a session: blocking, and under asyncio.

A session is written once, as coroutines over a transport and a backend. If both are blocking, none
of its awaits ever suspends, and `run_blocking` drives it to its end.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

__all__ = ["AsyncioBackend", "BlockingBackend", "IOBackend", "run_blocking"]

T = TypeVar("T")

#: How many pieces of a split call are sent concurrently: enough to keep a server busy.
_MAX_CONCURRENT = 4


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking client's coroutine has been suspended")


class IOBackend(ABC):
    """The clock, random numbers and concurrency of a session."""

    def now(self) -> float:
        """Return seconds on a monotonic clock."""
        return time.monotonic()

    def uniform(self, low: float, high: float) -> float:
        """Return a random number between two."""
        return random.uniform(low, high)

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Sleep."""

    @abstractmethod
    async def offload(self, function: Callable[[], T]) -> T:
        """Call what may read files or copy much, where it blocks no event loop."""

    @abstractmethod
    async def gather(self, functions: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Await all functions; the first error cancels the others."""


class BlockingBackend(IOBackend):
    """For `EnsembleClient`: one thing after another, in the caller's thread."""

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)  # noqa: ASYNC251  (there is no event loop)

    async def offload(self, function: Callable[[], T]) -> T:
        """Call it here."""
        return function()

    async def gather(self, functions: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Call them one after another."""
        return [await function() for function in functions]


class AsyncioBackend(IOBackend):
    """For `AsyncEnsembleClient`: a few things concurrently, in the running event loop."""

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def offload(self, function: Callable[[], T]) -> T:
        """Call it in a thread."""
        return await asyncio.to_thread(function)

    async def gather(self, functions: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Await a few of them concurrently."""
        slots = asyncio.Semaphore(_MAX_CONCURRENT)

        async def call(function: Callable[[], Awaitable[T]]) -> T:
            async with slots:
                return await function()

        tasks = [asyncio.ensure_future(call(function)) for function in functions]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
