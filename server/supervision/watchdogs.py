"""Looks after children in the background: those that hang or leak are killed, hence restarted.

Runs in the supervisor. What children publish on the board and what the kernel says of their memory
flows in. A replaced file of a model is only logged.
"""

from __future__ import annotations

import asyncio
import logging
import time

from server.supervision.live import LiveDeployments
from server.supervision.model_watch import ModelWatch
from server.supervision.processes import Processes

__all__ = ["kill_hung", "kill_leaking", "watch_models"]

_log = logging.getLogger(__name__)
_WATCH_INTERVAL_S = 0.2
_HEARTBEAT_TIMEOUT_S = 5.0
_MODEL_WATCH_INTERVAL_S = 10.0
_MEMORY_INTERVAL_S = 0.5


async def kill_hung(processes: Processes) -> None:
    """Kill children without a heartbeat.

    If the supervisor itself was held up, its children may have been, too: check again later.
    """
    last = time.monotonic()
    while True:
        await asyncio.sleep(_WATCH_INTERVAL_S)
        held_up = time.monotonic() - last > 5 * _WATCH_INTERVAL_S
        last = time.monotonic()
        if held_up:
            await asyncio.sleep(_HEARTBEAT_TIMEOUT_S)
            last = time.monotonic()
        now = time.monotonic_ns()
        for child in processes.children:
            board = processes.memory.board(child.name)
            if child.alive and board.is_hung(now, int(_HEARTBEAT_TIMEOUT_S * 1e9)):
                _log.error("%s hangs; killing it", child.name)
                child.kill()


async def kill_leaking(processes: Processes, live: LiveDeployments) -> None:
    """Kill workers that leak; while one deployment takes the place of another, both need memory."""
    while True:
        await asyncio.sleep(_MEMORY_INTERVAL_S)
        pids = {
            name: worker.process.pid
            for name, worker in processes.workers.items()
            if worker.alive and worker.process
        }
        found = processes.memory_watch.find_leaking(pids)
        if found is not None and live.coming is None and not live.draining:
            device, taken, budget = found
            _log.error(
                "worker %s takes %d MiB of memory, its devices have %d MiB: killing it",
                *(device, taken >> 20, budget >> 20),
            )
            processes.workers[device].kill()


async def watch_models(live: LiveDeployments) -> None:
    """Log whose file has changed since the deployment that is served was made."""
    watched, watch = None, ModelWatch(())
    while True:
        await asyncio.sleep(_MODEL_WATCH_INTERVAL_S)
        if live.current is not watched:
            watched = live.current
            watch.follow(one.source for held in watched.instances.values() for one in held)
        for line in await asyncio.to_thread(watch.complaints):
            _log.error("%s", line)
