"""Measures one member on one device, in a process that may crash and that pays for the runtime.

Runs as a child of the process that profiles, which holds it by a `ProfilerProcess`: a worker with
one instance, a private arena and no sockets. A spec and then commands flow in on its stdin
(`workers.profiler.messages`); each is answered with a line on its status channel as soon as the
answer is known.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, assert_never

import msgspec
import numpy as np

from workers.backends import Model, load
from workers.profiler.gauges import gauge_of
from workers.profiler.messages import (
    LEAST_RUNS,
    LONG_RUN_S,
    Command,
    Compare,
    Compared,
    Loaded,
    Measure,
    Measured,
    ProfilerSpec,
)
from workers.runtime.arena import Arena
from workers.runtime.bootstrap import Status, run_role
from workers.runtime.log_lines import Speaker
from workers.runtime.memory import SharedMemory
from workers.worker.instance import Instance
from workers.worker.process import settle

__all__ = ["fill_rows", "main"]


class _Profiler:
    """The child: a member that was loaded into a warm process, and what it has taken so far."""

    def __init__(self, spec: ProfilerSpec) -> None:
        device, source = spec.device, spec.instance.source
        self._gauge = gauge_of(device)
        nobody = self._gauge.now() if device.is_cuda else 0
        memory = SharedMemory(spec.memory)
        self._arena = Arena(memory, spec.memory.arenas[0])
        if device.is_cuda:
            from workers.worker.pinned_memory import pin  # noqa: PLC0415 (only where there is a GPU)

            pin(memory.buffer, device)
        fill_rows(self._arena)
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
        # Where one thread computes, its time on the core is the time that it takes by itself:
        # what others do on that core meanwhile is no part of it.
        alone = not device.is_cuda and len(device.cores) == 1
        self._clock = time.process_time if alone else time.perf_counter

    def obey(self, command: Command) -> Measured | Compared:
        """Run batches.

        Raises:
            _BatchError: if a run fails.
        """
        match command:
            case Measure():
                return self._measure(command)
            case Compare():
                return self._compare(command)
            case _:
                assert_never(command)

    def _measure(self, command: Measure) -> Measured:
        """Run batches of one size, the first of them for its memory alone."""
        self._gauge.restart_peak()
        self._run(command.batch)
        spent: list[float] = []
        end = time.perf_counter() + command.seconds
        while len(spent) < LEAST_RUNS or time.perf_counter() < end:
            spent.append(self._run(command.batch))
            if spent[-1] > LONG_RUN_S:
                break
        self._added = max(self._added, self._gauge.peak() - self._before)
        return Measured(command.batch, statistics.median(spent), self._added)

    def _compare(self, command: Compare) -> Compared:
        """Run batches of several sizes in turn."""
        spent: list[list[float]] = [[] for _ in command.batches]
        end = time.perf_counter() + command.seconds
        while not spent[0] or time.perf_counter() < end:
            for runs, batch in zip(spent, command.batches, strict=True):
                runs.append(self._run(batch))
        return Compared(tuple(map(statistics.median, spent)))

    def _run(self, batch: int) -> float:
        """Do what a worker does for a job, and return the seconds that it took.

        What fails is not tried again in halves.
        """
        attempts = 0

        def forbid_another(_: float) -> None:
            nonlocal attempts
            attempts += 1
            if attempts > 1:
                raise _SecondAttempt

        start = next(self._rows)
        before = self._clock()
        try:
            error = self._instance.run([(start, start + batch)], forbid_another)
        except _SecondAttempt:
            raise _BatchError(_reason(" ".join(self._instance.failure.split()))) from None
        spent_s = self._clock() - before
        if error:
            raise _BatchError(_reason(error))
        return spent_s

    def _ranges_of_rows(self) -> Iterator[int]:
        """Yield where ranges begin, segment after segment, with numbers that were never used."""
        start = self._arena.capacity
        while True:
            yield start
            start += self._arena.spec.segment_rows


class _BatchError(Exception):
    """A batch can't be run; the text is one line, which ends the child."""


class _SecondAttempt(Exception):  # noqa: N818 (it is no error, but how the first one gets out)
    """The instance wants to run a batch again, having failed to run all of it."""


def _reason(error: str) -> str:
    """Return what went wrong in people's words."""
    return error.replace("MemoryError", "out of memory", 1)


def _give_back_memory() -> None:
    """Hand freed memory back to the system, as far as the C library can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _be_first_to_die() -> None:
    """Where memory is short, let the kernel kill this process rather than anybody else."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def fill_rows(arena: Arena) -> None:
    """Write what requests could look like into every row, and touch the rest of the arena.

    Args:
        arena: where nobody else reads or writes.
    """
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


def main() -> None:
    """Entry point of the child."""

    def run(spec: ProfilerSpec, commands: BinaryIO, status: Status) -> None:
        _be_first_to_die()
        settle(spec.device)
        profiler = _Profiler(spec)
        status.send(Loaded(profiler.worker_bytes))
        for line in iter(commands.readline, b""):
            status.send(profiler.obey(msgspec.json.decode(line, type=Command)))

    run_role(lambda spec: Speaker("profiler", spec.instance.source.member), ProfilerSpec, run)


if __name__ == "__main__":
    main()
