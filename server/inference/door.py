"""Where requests wait whose model is held back until a new deployment serves it.

Runs in the front-end's event loop, on the slow path of both protocols. How many wait is bounded,
and each waits no longer than it may take.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from server.errors import DeadlineExceeded, QueueFull

__all__ = ["Door"]

_RETRY_AFTER_S = 5.0


class Door:
    """Lets at most `max_waiting` requests to each model wait."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiting: Counter[str] = Counter()
        self._opened = asyncio.Event()

    async def wait(self, model: str, until: float | None) -> None:
        """Wait until the door opens; `until` is when that is too late, on the monotonic clock.

        Raises:
            QueueFull: if too many requests to the model wait already.
            DeadlineExceeded: if it is too late.
        """
        if self._waiting[model] >= self._max_waiting:
            raise QueueFull(
                f"{self._waiting[model]} requests to {model!r} wait while it is replaced",
                _RETRY_AFTER_S,
            )
        self._waiting[model] += 1
        try:
            left_s = None if until is None else until - time.monotonic()
            await asyncio.wait_for(self._opened.wait(), left_s)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the deadline has passed while {model!r} was replaced"
            ) from None
        finally:
            self._waiting -= Counter([model])

    def open(self) -> None:
        """Let all pass that wait."""
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()
