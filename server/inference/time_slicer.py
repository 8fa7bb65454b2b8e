"""Long computations on the event loop, in slices with other requests in between.

Runs in the front-end. Work that holds the interpreter lock gains nothing from a thread; written as
a generator that yields every so often, it lets other requests pass in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

__all__ = ["Slices", "TimeSlicer", "run_to_end"]

T = TypeVar("T")
#: A computation in slices of less than about a millisecond: yields between them, returns a `T`.
Slices = Generator[None, None, T]

_BUDGET_S = 0.001


def run_to_end(slices: Slices[T]) -> T:
    """Run all slices without a pause and return their result."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: T = end.value
            return result


class TimeSlicer:
    """Runs slices of one computation in each iteration of the event loop; several alternate."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, slices: Slices[T]) -> T:
        """Run all slices, with other work in between, and return their result."""
        while True:
            async with self._lock:
                ends = time.perf_counter() + _BUDGET_S
                while time.perf_counter() < ends:
                    try:
                        next(slices)
                    except StopIteration as end:
                        result: T = end.value
                        return result
                await asyncio.sleep(0)
