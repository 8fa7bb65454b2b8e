"""A child of the supervisor: its role, the process that runs it at present, and its pipes.

Runs in the supervisor. The spec and commands flow in as lines on the child's stdin, `Started` or
`Failed` flows out of its status pipe. What libraries print on stdout or stderr flows to the log
with the child's name, including what it printed just before it died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from workers.runtime.bootstrap import Failed, Started
from workers.runtime.child_process import OutputLogger, child_command

__all__ = ["Child"]

_START_DEADLINE_S = 300.0
_EXIT_REASON_S = 0.1
_STDERR = 2
_CHUNK_BYTES = 1 << 16
#: A pipe holds about one chunk; a program that outlives the child may go on printing.
_MAX_DRAINED_CHUNKS = 4


class _PipeReader:
    """Reads a pipe to its end whenever it is readable; created in the event loop.

    Attributes:
        write_fd: the pipe's other end.
    """

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._fd, self.write_fd = os.pipe()
        self._on_data = on_data
        self._on_end = on_end
        self._is_open = True
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def drain(self) -> None:
        """Read what is there."""
        for _ in range(_MAX_DRAINED_CHUNKS):
            if not self._read():
                break

    def _read(self) -> bool:
        """Read a chunk; whether there was one."""
        if not self._is_open:
            return False
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, _CHUNK_BYTES)
            if data:
                self._on_data(data)
            else:
                self._is_open = False
                asyncio.get_running_loop().remove_reader(self._fd)
                os.close(self._fd)
                self._on_end()
        return bool(data)


@dataclass(eq=False)
class Child:
    """A role and the process that runs it at present, named as on the board.

    `device` is a worker's, else empty; `incarnation` grows with every start. `is_down` after too
    many failed starts in a row. `ended` is set once the process has been reaped, `up` once a
    process of this role has been up.
    """

    name: str
    module: str
    device: str = ""
    incarnation: int = 0
    process: asyncio.subprocess.Process | None = None
    status: asyncio.StreamReader = field(init=False)
    pipes: list[_PipeReader] = field(default_factory=list)
    alive: bool = False
    is_down: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    up: asyncio.Event = field(default_factory=asyncio.Event)

    async def spawn(self, inherited: tuple[int, ...], environment: Mapping[str, str]) -> None:
        """Start a process, which inherits descriptors, and replace that of before and its pipes.

        Raises:
            OSError: if the system refuses it.
        """
        lines = OutputLogger(self.name)
        status = asyncio.StreamReader()
        pipes: list[_PipeReader] = []
        try:
            pipes.append(_PipeReader(status.feed_data, status.feed_eof))
            pipes.append(_PipeReader(lines.feed, lines.end))
            status_fd, printed_fd = (pipe.write_fd for pipe in pipes)
            log_fd = os.dup(_STDERR)
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *child_command(self.module, status_fd, log_fd),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=printed_fd,
                    stderr=printed_fd,
                    pass_fds=(*inherited, status_fd, log_fd),
                    env=environment,
                    process_group=0,
                )
            finally:
                os.close(log_fd)
        finally:
            for pipe in pipes:
                os.close(pipe.write_fd)  # without a process, that ends the pipe
        self.status, self.pipes = status, pipes

    def drain(self) -> None:
        """Read what a process that has ended left behind.

        Programs that it started may live on: what they print is logged until they end.
        """
        for pipe in self.pipes:
            pipe.drain()

    def write(self, message: msgspec.Struct) -> None:
        """Send a line to the process; one that has just died is no error."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self.process.stdin.write(msgspec.json.encode(message) + b"\n")

    def close_stdin(self) -> None:
        """Close the process's stdin, which makes it exit."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def kill(self) -> None:
        """Kill the process, if it is alive."""
        if self.process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                # Not `process.kill()`, which reaps a dead process in place of the event loop.
                os.kill(self.process.pid, signal.SIGKILL)

    async def wait_up(self) -> str:
        """Wait for the first status line; return why the process is not up, empty if it is."""
        try:
            line = await asyncio.wait_for(self.status.readline(), _START_DEADLINE_S)
        except TimeoutError:
            return f"not up after {_START_DEADLINE_S:.0f} s"
        return _failure(line) if line else "it died during start-up"

    async def exit_reason(self) -> str:
        """Return why a process that was up has ended, empty if it could not report it."""
        with contextlib.suppress(TimeoutError, ValueError, msgspec.MsgspecError):
            # A process that has inherited the pipe may keep it open.
            line = await asyncio.wait_for(self.status.readline(), _EXIT_REASON_S)
            return _failure(line)
        return ""


def _failure(line: bytes) -> str:
    """The error in a status line, empty if it reports a start."""
    status = msgspec.json.decode(line, type=Started | Failed)
    return status.error if isinstance(status, Failed) else ""
