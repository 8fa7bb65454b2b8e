"""Measures one member on one device, in a process that may crash and that pays for the runtime.

Both ends are here. The child (`python -P -m workers.profiler`) is a worker with one instance, a
private arena and no sockets: a `ProfilerSpec` and then `Measure` commands arrive as lines of JSON
on its stdin, and it answers each with a line on its stdout as soon as it knows. The other end is
`ProfilerProcess`, held by the process that profiles: whatever becomes of the child is an
exception there.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import msgspec
import numpy as np

from workers.arena import Arena, arena_bytes
from workers.backends import Model, load
from workers.backends.base import one_line
from workers.bootstrap import Failed, Status, run_role
from workers.instance import Instance
from workers.memory import SharedMemory, board_bytes, create_memory
from workers.predictor import settle
from workers.spec import ArenaSpec, DeviceSpec, InstanceSpec, MemorySpec

__all__ = [
    "ARENA_OFFSET",
    "Loaded",
    "Measure",
    "Measured",
    "ProfilerError",
    "ProfilerProcess",
    "ProfilerSpec",
    "main",
]

_PROCESSES = ("profiler",)
#: Where the arena of a profiler's memory begins.
ARENA_OFFSET = board_bytes(len(_PROCESSES))

_LEAST_RUNS = 5
#: After a run that takes longer, one run is enough.
_LONG_RUN_S = 1.0


class ProfilerSpec(msgspec.Struct, frozen=True):
    """The child's first line: where to load which instance; its batch is the largest to come."""

    device: DeviceSpec
    instance: InstanceSpec
    memory: MemorySpec


class Measure(msgspec.Struct, frozen=True):
    """A command: run batches of this size, for about so many seconds, five of them at least."""

    batch: int
    seconds: float


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The member is loaded.

    Attributes:
        worker_bytes: what the process takes without the member, in the device's memory.
    """

    worker_bytes: int


class Measured(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Measure`.

    Attributes:
        latency_s: seconds per batch, the median of warm runs.
        memory_bytes: what loading the member and running batches up to this size has added.
    """

    batch: int
    latency_s: float
    memory_bytes: int


_Reply = Loaded | Measured | Failed


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
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed in the end)
        self._unread = b""
        try:
            self._child = subprocess.Popen(
                # -P: a directory `workers` where the user happens to be is not ours.
                [sys.executable, "-P", "-m", "workers.profiler"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                pass_fds=(fd,),
            )
        finally:
            os.close(fd)
        self._send(ProfilerSpec(device, instance, MemorySpec(fd, nbytes, _PROCESSES, (arena,))))

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
        self._complaints.close()

    def wait_loaded(self, timeout_s: float) -> Loaded:
        """Wait until the member is loaded.

        Raises:
            ProfilerError: if it can't be.
            TimeoutError: if that takes longer than `timeout_s`.
        """
        reply = self._reply(timeout_s)
        assert isinstance(reply, Loaded)
        return reply

    def start(self, command: Measure) -> None:
        """Let the child begin to measure."""
        self._send(command)

    def wait_measured(self, timeout_s: float) -> Measured:
        """Wait for what the child has measured.

        Raises:
            ProfilerError: if the batch could not be run.
            TimeoutError: if that takes longer than `timeout_s`.
        """
        reply = self._reply(timeout_s)
        assert isinstance(reply, Measured)
        return reply

    def _send(self, message: ProfilerSpec | Measure) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading tells why
            self._child.stdin.write(msgspec.json.encode(message) + b"\n")
            self._child.stdin.flush()

    def _reply(self, timeout_s: float) -> Loaded | Measured:
        line = self._line(time.monotonic() + timeout_s)
        if not line:
            raise ProfilerError(self._cause_of_death())
        reply: _Reply = msgspec.json.decode(line, type=_Reply)
        if isinstance(reply, Failed):
            raise ProfilerError(reply.error)
        return reply

    def _line(self, deadline: float) -> bytes:
        """Return the next line, empty if the child has closed its stdout."""
        assert self._child.stdout is not None
        fd = self._child.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise TimeoutError
            chunk = os.read(fd, 1 << 16)
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
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"its process exited {code}: {lines[-1] if lines else 'no message'}"


class _MemoryGauge(Protocol):
    """Tells how much of the device's memory is taken, in bytes."""

    def now(self) -> int: ...

    def restart_peak(self) -> None: ...

    def peak(self) -> int: ...


class _ResidentGauge:
    """RAM of this process, shared memory (the arena) excepted."""

    def __init__(self) -> None:
        self._knows_peak = False

    def now(self) -> int:
        """Bytes that are resident at present."""
        return _status_bytes("VmRSS") - _status_bytes("RssShmem")

    def restart_peak(self) -> None:
        """Forget the peak so far."""
        with contextlib.suppress(OSError):  # then activations freed after a run go unseen
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._knows_peak = True

    def peak(self) -> int:
        """Bytes that were resident at most since the peak was restarted."""
        # The arena was touched before: what is shared has not changed since the peak.
        if self._knows_peak:
            return _status_bytes("VmHWM") - _status_bytes("RssShmem")
        return self.now()


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"the kernel does not tell {key}")


class _GpuGauge:
    """Memory taken on a GPU, by whomever: in a container NVML can't tell processes apart.

    The runtimes keep what they have once taken, so the present is the peak.
    """

    def __init__(self, device: DeviceSpec) -> None:
        import pynvml  # noqa: PLC0415 (hosts without GPUs need not pay for it)

        pynvml.nvmlInit()
        self._nvml = pynvml
        # A UUID may also name a slice of a GPU, which an index can't.
        self._handle = (
            pynvml.nvmlDeviceGetHandleByUUID(device.uuid)
            if device.uuid
            else pynvml.nvmlDeviceGetHandleByIndex(device.cuda_index)
        )

    def now(self) -> int:
        """Bytes that are taken at present."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def restart_peak(self) -> None:
        """Nothing to restart."""

    def peak(self) -> int:
        """As `now`."""
        return self.now()


class _Profiler:
    """The child: a member that was loaded into a warm process, and what it has taken so far."""

    def __init__(self, spec: ProfilerSpec) -> None:
        device, source = spec.device, spec.instance.source
        self._gauge: _MemoryGauge = _GpuGauge(device) if device.is_cuda else _ResidentGauge()
        nobody = self._gauge.now() if device.is_cuda else 0
        memory = SharedMemory(spec.memory)
        self._arena = Arena(memory, spec.memory.arenas[0])
        if device.is_cuda:
            from workers.pinned import pin  # noqa: PLC0415 (only where there is a GPU)

            pin(memory.buffer, device)
        _fill(self._arena)
        # Code, thread pools, CUDA's context and its libraries' handles are the worker's, not the
        # member's: have them there before anything is counted.
        load(source, device).close()
        _give_back_memory()
        self._before = self._gauge.now()
        self.worker_bytes = max(self._before - nobody, 0)
        model: Model = load(source, device)
        self._added = max(self._gauge.now() - self._before, 0)
        self._instance = Instance(spec.instance, self._arena, model)
        model.arm()
        self._rows = self._ranges_of_rows()

    def measure(self, command: Measure) -> Measured:
        """Run batches, the first of them for its memory alone.

        Raises:
            ProfilerError: if a run fails.
        """
        self._gauge.restart_peak()
        self._run(command.batch)
        spent: list[float] = []
        started = now = time.perf_counter()
        while len(spent) < _LEAST_RUNS or now - started < command.seconds:
            before = now
            self._run(command.batch)
            now = time.perf_counter()
            spent.append(now - before)
            if spent[-1] > _LONG_RUN_S:
                break
        self._added = max(self._added, self._gauge.peak() - self._before)
        return Measured(command.batch, statistics.median(spent), self._added)

    def _run(self, batch: int) -> None:
        """Do what a worker does for a job; but what fails is not tried again in halves."""
        attempts = 0

        def forbid_another(_: float) -> None:
            nonlocal attempts
            attempts += 1
            if attempts > 1:
                raise _SecondAttempt

        start = next(self._rows)
        try:
            error = self._instance.run([(start, start + batch)], forbid_another)
        except _SecondAttempt as second:
            failure = second.__context__  # why the first one failed
            what = "" if failure is None else f"{type(failure).__name__}: {one_line(failure)}"
            raise ProfilerError(_reason(what)) from failure
        if error:
            raise ProfilerError(_reason(error))

    def _ranges_of_rows(self) -> Iterator[int]:
        """Yield where ranges begin, segment after segment, with numbers that were never used."""
        start = self._arena.capacity
        while True:
            yield start
            start += self._arena.spec.segment_rows


class _SecondAttempt(Exception):  # noqa: N818 (it is no error, but how the first one gets out)
    """The instance wants to run a batch again, having failed to run all of it."""


def _reason(error: str) -> str:
    """Return what went wrong in people's words."""
    return error.replace("MemoryError", "out of memory", 1)


def _fill(arena: Arena) -> None:
    """Write what requests could look like into every row, and touch the rest of the arena."""
    generator = np.random.default_rng(0)
    for view in arena.views:
        shape = view.shape[1:]
        for slot in range(len(view)):  # one by one: no large temporary, which might be kept
            if view.dtype == np.uint8:
                view[slot] = generator.integers(0, 256, shape, np.uint8)
            elif np.issubdtype(view.dtype, np.floating):
                view[slot] = generator.random(shape, np.float32)
            else:
                view[slot] = 0  # an index, perhaps: zero is one that there is
    for predictions in arena.predictions:
        predictions[...] = 0
    arena.done[...] = 0


def _give_back_memory() -> None:
    """Hand freed memory back to the system, as far as the C library can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _be_first_to_die() -> None:
    """Where memory is short, let the kernel kill this process rather than anybody else."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Entry point of the child."""
    replies = os.fdopen(os.dup(1), "wb")

    def reply(message: Loaded | Measured) -> None:
        replies.write(msgspec.json.encode(message) + b"\n")
        replies.flush()

    def run(spec: ProfilerSpec, commands: BinaryIO, status: Status) -> None:
        _be_first_to_die()
        settle(spec.device)
        profiler = _Profiler(spec)
        reply(Loaded(profiler.worker_bytes))
        for line in iter(commands.readline, b""):
            reply(profiler.measure(msgspec.json.decode(line, type=Measure)))

    run_role(lambda spec: f"ensembled profiler {spec.instance.source.member}", ProfilerSpec, run)


if __name__ == "__main__":
    main()
