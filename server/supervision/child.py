"""A child of the supervisor: a role, the process that plays it now, and its standard streams.

Runs in the supervisor. The spec and commands go in as lines, `Started` or `Failed` comes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field

import msgspec

from workers.bootstrap import Failed, Started

__all__ = ["Child"]

_START_DEADLINE_S = 300.0
_LAST_WORDS_S = 0.1


@dataclass(eq=False)
class Child:
    """A role and the process that plays it now.

    Attributes:
        name: the process's name on the board.
        module: what it runs.
        device: a worker's device, empty for other roles.
        incarnation: grows with every start.
        up: set once a process of this role has been up.
        is_down: whether it has died at its starts, again and again, and was not up since.
    """

    name: str
    module: str
    device: str = ""
    incarnation: int = 0
    process: asyncio.subprocess.Process | None = None
    alive: bool = False
    is_down: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    up: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, message: msgspec.Struct) -> None:
        """Send a line to the process; one that has just died is no error."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self.process.stdin.write(msgspec.json.encode(message) + b"\n")

    def let_go(self) -> None:
        """End the process's stdin, which tells it to end."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def kill(self) -> None:
        """Kill the process, if it lives."""
        if self.process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                # Not `process.kill()`, which reaps a dead process in the place of the event loop.
                os.kill(self.process.pid, signal.SIGKILL)

    async def wait_up(self) -> str | None:
        """Wait for a child's first status line; what is wrong, or None if it is up."""
        assert self.process is not None
        assert self.process.stdout is not None
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), _START_DEADLINE_S)
        except TimeoutError:
            return f"not up after {_START_DEADLINE_S:.0f} s"
        if not line:
            return "it died while it started"
        match msgspec.json.decode(line, type=Started | Failed):
            case Failed(error):
                return error
            case _:
                return None

    async def last_words(self) -> str:
        """Why a process that was up has ended, if it could still say that."""
        assert self.process is not None
        assert self.process.stdout is not None
        with contextlib.suppress(TimeoutError, ValueError, msgspec.MsgspecError):
            # Whoever has inherited the stream may keep it open.
            line = await asyncio.wait_for(self.process.stdout.readline(), _LAST_WORDS_S)
            match msgspec.json.decode(line, type=Started | Failed):
                case Failed(error):
                    return error
        return ""
