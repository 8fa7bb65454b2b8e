"""Records what is served, a window per minute.

Runs in the supervisor's event loop. What the front-end reports flows in; windows flow out to the
database of `server.history`, which a thread writes. A server whose history can't be written serves
without it, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from pathlib import Path

from server.deployment.plan import DeploymentPlan
from server.following.traffic import Traffic, total
from server.history.database import HistoryError, append_window
from server.history.windows import Window, model_key

__all__ = ["Recorder"]

_log = logging.getLogger(__name__)
_WINDOW_S = 60.0


class Recorder:
    """Records the generation that is served in the database at `path`; nothing if that is None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._observed: list[Traffic] = []
        self._generation = 0
        self._kinds: dict[str, str] = {}
        self._models: dict[str, str] = {}
        self._since = time.monotonic()
        self._ended: deque[Window] = deque()
        self._writing = asyncio.Lock()

    def serve(self, generation: int, plan: DeploymentPlan) -> None:
        """That generation is served from now on; the window of the one before ends."""
        self._end_window()
        self._generation = generation
        self._kinds = {device.name: device.kind for device in plan.devices}
        self._models = {member.name: model_key(member.source) for member in plan.models.members}

    def observe(self, traffic: Traffic) -> None:
        """Note what the front-end reports."""
        if self._path is not None and traffic.generation == self._generation:
            self._observed.append(traffic)

    async def run(self) -> None:
        """Record until cancelled."""
        while self._path is not None:
            await asyncio.sleep(_WINDOW_S)
            await self.flush()

    async def flush(self) -> None:
        """End the window, and wait until all windows are recorded, in their order."""
        self._end_window()
        async with self._writing:
            while self._ended:
                await asyncio.to_thread(self._write, self._ended.popleft())

    def _end_window(self) -> None:
        """Keep the window until now for the next flush, unless nothing was served in it."""
        traffic, now = total(self._observed), time.monotonic()
        seconds, self._since = now - self._since, now
        self._observed.clear()
        if traffic.models:
            started = time.time() - seconds
            self._ended.append(Window(started, seconds, traffic, self._kinds, self._models))

    def _write(self, window: Window) -> None:
        path = self._path
        if path is None:
            return
        try:
            append_window(path, window)
        except HistoryError as error:
            self._path = None
            _log.warning("no history is kept any more: %s", error)
