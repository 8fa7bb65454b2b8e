"""Long work on the event loop, in short steps: in each turn of the loop a few of them.

Runs in the front-end. Work that holds the interpreter lock gains nothing from a thread; written as
a generator that yields every so often, it lets other requests pass in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

__all__ = ["Steps", "Turns", "run_at_once"]

T = TypeVar("T")
#: Work in steps of less than about a millisecond; it yields between them and returns a `T`.
Steps = Generator[None, None, T]

_TURN_S = 0.001


def run_at_once(steps: Steps[T]) -> T:
    """Take all the steps without a pause and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class Turns:
    """Gives each turn of the event loop to one piece of long work; several take turns."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, steps: Steps[T]) -> T:
        """Take all the steps, with other work in between, and return their result."""
        while True:
            async with self._lock:
                ends = time.perf_counter() + _TURN_S
                while time.perf_counter() < ends:
                    try:
                        next(steps)
                    except StopIteration as end:
                        result: T = end.value
                        return result
                await asyncio.sleep(0)
