"""A child of the supervisor: a role, the process that plays it now, and its channels.

Runs in the supervisor. The spec and commands go in as lines on its stdin, `Started` or `Failed`
comes out of its status pipe (`server.supervision.child_pipes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from server.supervision.child_pipes import ChildPipes
from workers.runtime.bootstrap import Failed, Started
from workers.runtime.child_process import child_command

__all__ = ["Child"]

_START_DEADLINE_S = 300.0
_LAST_WORDS_S = 0.1
_STDERR = 2


@dataclass(eq=False)
class Child:
    """A role and the process that plays it now.

    Attributes:
        name: the process's name on the board.
        module: what it runs.
        device: a worker's device, empty for other roles.
        incarnation: grows with every start.
        up: set once a process of this role has been up.
        pipes: what comes out of the process.
        is_down: whether it has died at its starts, again and again, and was not up since.
    """

    name: str
    module: str
    device: str = ""
    incarnation: int = 0
    process: asyncio.subprocess.Process | None = None
    pipes: ChildPipes | None = None
    alive: bool = False
    is_down: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    up: asyncio.Event = field(default_factory=asyncio.Event)

    async def spawn(self, inherited: tuple[int, ...], environment: Mapping[str, str]) -> None:
        """Start a process; `process` and `pipes` are those of the new one.

        Args:
            inherited: descriptors that its spec names.
            environment: its variables.

        Raises:
            OSError: if the system refuses it.
        """
        pipes = ChildPipes(self.name)
        try:
            log = os.dup(_STDERR)
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *child_command(self.module, pipes.status_fd, log),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=pipes.printed_fd,
                    stderr=pipes.printed_fd,
                    pass_fds=(*inherited, pipes.status_fd, log),
                    env=environment,
                    process_group=0,
                )
            finally:
                os.close(log)
        finally:
            pipes.release()  # if there is no process, that is the end of the pipes
        self.pipes = pipes

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
        assert self.pipes is not None
        try:
            line = await asyncio.wait_for(self.pipes.status.readline(), _START_DEADLINE_S)
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
        assert self.pipes is not None
        with contextlib.suppress(TimeoutError, ValueError, msgspec.MsgspecError):
            # Whoever has inherited the pipe may keep it open.
            line = await asyncio.wait_for(self.pipes.status.readline(), _LAST_WORDS_S)
            match msgspec.json.decode(line, type=Started | Failed):
                case Failed(error):
                    return error
        return ""
