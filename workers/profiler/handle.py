"""The handle of a profiler's child: its messages, and how it is started, commanded and ended.

Runs in the process that profiles; the child (`workers.profiler.process`) shares the messages. Each
is a line of JSON: a `ProfilerSpec` and then `Command`s go to the child's stdin, a `Loaded` and then
a `Measured`, `Compared` or `PowerMeasured` per command (or `Failed`) come back on its status
channel. If the child dies, an exception is raised here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import Self, TypeVar

import msgspec

from workers.profiler.energy import EnergySource
from workers.runtime.arena import arena_bytes
from workers.runtime.bootstrap import Failed
from workers.runtime.child_process import OutputReader, describe_exit, start_child
from workers.runtime.memory import create_memory
from workers.runtime.spec import ArenaSpec, DeviceSpec, InstanceSpec

__all__ = [
    "Command",
    "Compare",
    "Compared",
    "LONG_RUN_S",
    "Loaded",
    "MIN_RUNS",
    "Measure",
    "MeasurePower",
    "Measured",
    "PowerMeasured",
    "ProfilerError",
    "ProfilerProcess",
    "ProfilerSpec",
]

#: How often a batch is run for its latency, at least, after a run for its memory.
MIN_RUNS = 5
#: After a run that takes longer, one run is enough.
LONG_RUN_S = 1.0

_ReplyT = TypeVar("_ReplyT")


class ProfilerError(Exception):
    """A member can't be measured (any further); the text is one line without its name."""


class ProfilerSpec(msgspec.Struct, frozen=True):
    """The child's first line: the instance to load; its batch is the largest that will be run.

    The arena takes all `nbytes` of the memory of which it inherits the descriptor `fd`.
    """

    device: DeviceSpec
    instance: InstanceSpec
    arena: ArenaSpec
    fd: int
    nbytes: int


class Measure(msgspec.Struct, frozen=True, tag=True):
    """A command: run batches of `batch` rows for about so many seconds.

    `sizes` are those of the rows' variable dimensions, in the order of the arena's symbols; empty
    for the largest.
    """

    batch: int
    seconds: float
    sizes: tuple[int, ...] = ()


class Compare(msgspec.Struct, frozen=True, tag=True):
    """A command: run batches of several sizes, in rows and measured before, in turn.

    It takes about `seconds`; each size is run at least once.
    """

    batches: tuple[int, ...]
    seconds: float


class MeasurePower(msgspec.Struct, frozen=True, tag=True):
    """A command: run batches of `batch` rows for the energy that they take; 0 runs none.

    It takes about `seconds`, as the energy counters of GPUs change only every 100 ms.
    """

    batch: int
    seconds: float


Command = Measure | Compare | MeasurePower


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The member is loaded; without it the process uses `worker_bytes` of the device's memory."""

    worker_bytes: int


class Measured(msgspec.Struct, frozen=True, tag=True):
    """The reply to `Measure`: the median of warm runs with `batch` rows.

    `memory_bytes` is what loading the member and running batches up to this size has added.
    """

    batch: int
    latency_s: float
    memory_bytes: int


class Compared(msgspec.Struct, frozen=True, tag=True):
    """The reply to `Compare`: seconds per batch of each size, the median of its runs."""

    latencies_s: tuple[float, ...]


class PowerMeasured(msgspec.Struct, frozen=True, tag=True):
    """The reply to `MeasurePower`: the watts of the device in all, and the seconds of each run.

    None without a working meter. `source` says what the meter is.
    """

    watts: float | None
    run_s: float
    source: EnergySource


_Reply = Loaded | Measured | Compared | PowerMeasured | Failed


class ProfilerProcess:
    """A child that measures one instance; a context manager that ends it.

    The instance's batch is the largest that will be run; the arena has enough rows for it.
    """

    def __init__(self, device: DeviceSpec, instance: InstanceSpec, arena: ArenaSpec) -> None:
        nbytes = arena_bytes(arena)
        fd = create_memory(nbytes)
        self._output = OutputReader(f"profiler of {instance.source.member}")
        self._replies, status = os.pipe()
        log = os.open(os.devnull, os.O_WRONLY)  # errors become exceptions here
        self._unread = b""
        try:
            self._child = start_child(
                "workers.profiler.process",
                status,
                log,
                inherited=(fd, status, log),
                output=self._output,
                stdin=subprocess.PIPE,
            )
        except BaseException:
            os.close(self._replies)
            raise
        self.send(ProfilerSpec(device, instance, arena, fd, nbytes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        with contextlib.suppress(BrokenPipeError):  # a command that was not read
            self._child.__exit__(None, None, None)
        os.close(self._replies)

    def send(self, message: ProfilerSpec | Command) -> None:
        """Send a command; `wait_reply` returns its reply."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: `wait_reply` raises
            self._child.stdin.write(msgspec.json.encode(message) + b"\n")
            self._child.stdin.flush()

    def wait_reply(self, kind: type[_ReplyT], timeout_s: float) -> _ReplyT:
        """Wait for the next reply: `Loaded`, then one of the command's kind.

        Raises:
            ProfilerError: if the member can't be loaded, or a batch not be run.
            TimeoutError: if that takes longer than `timeout_s`.
        """
        line = self._line(time.monotonic() + timeout_s)
        if not line:
            raise ProfilerError(self._cause_of_death())
        reply: _Reply = msgspec.json.decode(line, type=_Reply)
        if isinstance(reply, Failed):
            raise ProfilerError(reply.error)
        assert isinstance(reply, kind)
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
        return f"its process {describe_exit(code, self._output.last_line())}"
