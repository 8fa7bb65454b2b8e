"""A child of the supervisor: its role, the process that runs it at present, and its pipes.

Runs in the supervisor. The spec and commands flow in as lines on the child's stdin; `Started`, then
reports, then `Failed` flow out of its status pipe. What libraries print on stdout or stderr flows
to the log with the child's name. Both pipes are read to the last line before a death is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec

from server.inference.commands import Report as FrontEndReport
from workers.runtime.bootstrap import Failed, Started
from workers.runtime.child_process import OutputLogger, child_command
from workers.runtime.spec import DeviceSpec, Loaded, Unloaded

__all__ = ["Child", "Report", "StatusReader"]

#: What a child that is up reports.
Report = Loaded | Unloaded | FrontEndReport

_START_DEADLINE_S = 300.0
_STDERR = 2
_CHUNK_BYTES = 1 << 16
#: A pipe holds about one chunk; a program that outlives the child may go on printing.
_MAX_DRAINED_CHUNKS = 4

_decode = msgspec.json.Decoder(Started | Failed | Report).decode


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


class StatusReader:
    """Takes the status lines of one process apart; `error` is why it ended, if it could say so.

    `up` is done as soon as it is known whether the process comes up: why it does not, or "".
    """

    def __init__(self, on_report: Callable[[Report], None]) -> None:
        self.up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.error = ""
        self._on_report = on_report
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was read from the pipe."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match _decode(line):
                case Started():
                    self._settle("")
                case Failed(error):
                    self.error = error
                    self._settle(error)
                case report:
                    self._on_report(report)

    def end(self) -> None:
        """The pipe, or the process, has ended."""
        self._settle("it died during start-up")

    def _settle(self, error: str) -> None:
        if not self.up.done():
            self.up.set_result(error)


@dataclass(eq=False)
class Child:
    """A role and the process that runs it at present, named as on the board.

    `device` is a worker's, else None; `incarnation` grows with every start. `on_report` is called
    with what it reports. `is_down` after too many failed starts in a row; `serves` while a process
    is up. `ended` is set once the process has been reaped, `up` once a process of this role has
    been up, `retired` if none is to be started any more, `due` to have one started at once.
    """

    name: str
    module: str
    on_report: Callable[[Child, Report], None]
    device: DeviceSpec | None = None
    incarnation: int = 0
    process: asyncio.subprocess.Process | None = None
    pipes: list[_PipeReader] = field(default_factory=list)
    alive: bool = False
    serves: bool = False
    is_down: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    retired: asyncio.Event = field(default_factory=asyncio.Event)
    due: asyncio.Event = field(default_factory=asyncio.Event)
    _status: StatusReader = field(init=False)

    async def spawn(self, inherited: tuple[int, ...], environment: Mapping[str, str]) -> None:
        """Start a process, which inherits descriptors, and replace that of before and its pipes.

        Raises:
            OSError: if the system refuses it.
        """
        lines = OutputLogger(self.name)
        status = StatusReader(partial(self.on_report, self))
        pipes: list[_PipeReader] = []
        try:
            pipes.append(_PipeReader(status.feed, status.end))
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
        self._status, self.pipes = status, pipes

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
        """Wait until the process is up or has died; return why it is not up, empty if it is."""
        assert self.process is not None
        died = asyncio.create_task(self.process.wait())
        waits = (self._status.up, died)
        await asyncio.wait(waits, timeout=_START_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        if died.done():  # programs that it started may keep the pipe open
            self.drain()
            self._status.end()
        died.cancel()
        if not self._status.up.done():
            return f"not up after {_START_DEADLINE_S:.0f} s"
        return self._status.up.result()

    @property
    def exit_reason(self) -> str:
        """Why a process that was up has ended, empty if it could not report it."""
        return self._status.error
