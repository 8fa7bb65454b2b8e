"""The handle of a profiler: starts the child, asks it, and ends it.

Runs in the process that profiles. A device, an instance and an arena flow in, and go to a child
(`workers.profiler.process`) with commands after them; its measurements flow out. Whatever becomes
of the child is an exception here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from types import TracebackType
from typing import Self

import msgspec

from workers.profiler.messages import (
    PROCESSES,
    Command,
    Compared,
    Loaded,
    Measured,
    ProfilerSpec,
    Reply,
)
from workers.runtime.arena import arena_bytes
from workers.runtime.bootstrap import Failed
from workers.runtime.child_process import child_command
from workers.runtime.memory import create_memory
from workers.runtime.printed import PrintReader
from workers.runtime.spec import ArenaSpec, DeviceSpec, InstanceSpec, MemorySpec

__all__ = ["ProfilerError", "ProfilerProcess"]


class ProfilerError(Exception):
    """A member can't be measured (any further); the text is one line without its name."""


class ProfilerProcess:
    """A child that measures one instance; a context manager that ends it.

    Args:
        device: where.
        instance: what; its batch is the largest that will be asked for.
        arena: with room for that batch, at `ARENA_OFFSET`.
    """

    def __init__(self, device: DeviceSpec, instance: InstanceSpec, arena: ArenaSpec) -> None:
        nbytes = arena.offset + arena_bytes(arena)
        fd = create_memory(nbytes)
        self._printed = PrintReader(f"profiler of {instance.source.member}")
        self._replies, status = os.pipe()
        log = os.open(os.devnull, os.O_WRONLY)  # what goes wrong is an exception here
        self._unread = b""
        try:
            self._child = subprocess.Popen(
                child_command("workers.profiler.process", status, log),
                stdin=subprocess.PIPE,
                stdout=self._printed.fd,
                stderr=self._printed.fd,
                pass_fds=(fd, status, log),
            )
        except BaseException:
            os.close(self._replies)
            raise
        finally:
            for mine in (fd, status, log):
                os.close(mine)
            self._printed.started()
        self._send(ProfilerSpec(device, instance, MemorySpec(fd, nbytes, PROCESSES, (arena,))))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.kill()
        with contextlib.suppress(BrokenPipeError):  # a command that nobody took
            self._child.__exit__(kind, error, trace)
        os.close(self._replies)

    def wait_loaded(self, timeout_s: float) -> Loaded:
        """Wait until the member is loaded.

        Args:
            timeout_s: for how long, at most.

        Raises:
            ProfilerError: if it can't be.
            TimeoutError: if that takes longer than `timeout_s`.
        """
        reply = self._reply(timeout_s)
        assert isinstance(reply, Loaded)
        return reply

    def start(self, command: Command) -> None:
        """Let the child begin to run batches.

        Args:
            command: what.
        """
        self._send(command)

    def wait_measured(self, timeout_s: float) -> Measured:
        """Wait for what the child has measured.

        Args:
            timeout_s: for how long, at most.

        Raises:
            ProfilerError: if the batch could not be run.
            TimeoutError: if that takes longer than `timeout_s`.
        """
        reply = self._reply(timeout_s)
        assert isinstance(reply, Measured)
        return reply

    def wait_compared(self, timeout_s: float) -> Compared:
        """Wait for what the child has found out about several batch sizes.

        Args:
            timeout_s: for how long, at most.

        Raises:
            ProfilerError: if a batch could not be run.
            TimeoutError: if that takes longer than `timeout_s`.
        """
        reply = self._reply(timeout_s)
        assert isinstance(reply, Compared)
        return reply

    def _send(self, message: ProfilerSpec | Command) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading tells why
            self._child.stdin.write(msgspec.json.encode(message) + b"\n")
            self._child.stdin.flush()

    def _reply(self, timeout_s: float) -> Loaded | Measured | Compared:
        line = self._line(time.monotonic() + timeout_s)
        if not line:
            raise ProfilerError(self._cause_of_death())
        reply: Reply = msgspec.json.decode(line, type=Reply)
        if isinstance(reply, Failed):
            raise ProfilerError(reply.error)
        return reply

    def _line(self, deadline: float) -> bytes:
        """Return the next line, empty if the child has ended."""
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                raise TimeoutError
            chunk = os.read(self._replies, 1 << 16)
            if not chunk:
                return b""
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _cause_of_death(self) -> str:
        code = self._child.wait()
        if code == -signal.SIGKILL:
            return "out of memory (its process was killed)"
        if code < 0:
            return f"its process died of {signal.Signals(-code).name}"
        return f"its process exited {code}: {self._printed.last_line() or 'no message'}"
