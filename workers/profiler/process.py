"""Measures one member on one device, in a process that may crash and that imports the runtime.

Runs as a child of the process that profiles, which holds it as a `ProfilerProcess`: a worker with
one instance, a private arena and no sockets. A spec and then commands flow in on its stdin, each is
answered with a line on its status channel (see `workers.profiler.handle`).
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from ensembled_client.wire import join_elements

from workers.backends import Model, load
from workers.backends.base import Array
from workers.backends.sizes import repeated
from workers.profiler.energy import energy_meters, measure_power
from workers.profiler.gauges import memory_gauge
from workers.profiler.handle import (
    LONG_RUN_S,
    MIN_RUNS,
    Command,
    Compare,
    Compared,
    Loaded,
    Measure,
    Measured,
    MeasurePower,
    PowerMeasured,
    ProfilerSpec,
)
from workers.runtime.arena import Arena
from workers.runtime.bootstrap import StatusChannel, bind_to_device, run_role
from workers.runtime.logs import ProcessName
from workers.runtime.spec import InstanceSpec
from workers.worker.host_memory import pin_for_device, release_memory
from workers.worker.inputs import convert, example_row
from workers.worker.instance import Instance

__all__ = ["fill_rows", "main", "write_example"]

#: How long an idle process sleeps between two looks at the meters.
_IDLE_S = 0.02


class _Profiler:
    """A member loaded into a warm process, and the memory it has used so far."""

    def __init__(self, spec: ProfilerSpec) -> None:
        device, source = spec.device, spec.instance.source
        self._device = device
        self._gauge = memory_gauge(device)
        others = self._gauge.now() if device.is_cuda else 0
        mapping = mmap.mmap(spec.fd, spec.nbytes)
        self._arena = Arena(mapping, spec.arena)
        pin_for_device(mapping, device)
        fill_rows(self._arena)
        # Code, thread pools, CUDA's context and its libraries' handles belong to the worker, not to
        # the member: load them before anything is measured.
        load(source, device).close()
        release_memory()
        self._before = self._gauge.now()
        self.worker_bytes = max(self._before - others, 0)
        model: Model = load(source, device)
        self._added = max(self._gauge.now() - self._before, 0)
        if model.example is not None:
            write_example(self._arena, spec.instance, model.example)
        self._instance = Instance(spec.instance, self._arena, model)
        model.arm()
        # Of ranges, segment after segment, with row numbers that are all new.
        self._starts = itertools.count(self._arena.capacity, self._arena.spec.segment_rows)
        # A single computing thread is measured by its CPU time, which excludes the time that other
        # processes use the core.
        is_single = not device.is_cuda and len(device.cores) == 1
        self._clock = time.process_time if is_single else time.perf_counter

    def run(self, command: Command) -> Measured | Compared | PowerMeasured:
        """Run the batches of a command; raise _BatchError if one fails."""
        if isinstance(command, Measure):
            return self._measure(command)
        if isinstance(command, MeasurePower):
            return self._measure_power(command)
        return self._compare(command)

    def _measure(self, command: Measure) -> Measured:
        """Run batches of one size, the first of them only for its memory."""
        if command.sizes:
            _resize_rows(self._arena, command.sizes)
        self._gauge.reset_peak()
        self._run_batch(command.batch)
        runs_s: list[float] = []
        end = time.perf_counter() + command.seconds
        while len(runs_s) < MIN_RUNS or time.perf_counter() < end:
            runs_s.append(self._run_batch(command.batch))
            if runs_s[-1] > LONG_RUN_S:
                break
        self._added = max(self._added, self._gauge.peak() - self._before)
        return Measured(command.batch, statistics.median(runs_s), self._added)

    def _compare(self, command: Compare) -> Compared:
        """Run batches of several sizes in turn."""
        runs_s: list[list[float]] = [[] for _ in command.batches]
        end = time.perf_counter() + command.seconds
        while not runs_s[0] or time.perf_counter() < end:
            for runs, batch in zip(runs_s, command.batches, strict=True):
                runs.append(self._run_batch(batch))
        return Compared(tuple(map(statistics.median, runs_s)))

    def _measure_power(self, command: MeasurePower) -> PowerMeasured:
        """Run batches of one size, or wait as an idle worker does, and read the meters."""
        run = partial(self._run_batch, command.batch) if command.batch else _idle
        meters = energy_meters(self._device)
        power = measure_power(meters, run, command.seconds) if meters else None
        if power is None:
            return PowerMeasured(None, 0.0, "estimated")
        return PowerMeasured(power.watts, power.run_s, meters[0].source)

    def _run_batch(self, batch: int) -> float:
        """Run a batch as a worker does for a job, but without retries; return the seconds."""
        attempts = 0

        def forbid_retry(_: float) -> None:
            nonlocal attempts
            attempts += 1
            if attempts > 1:
                raise _Retry

        start = next(self._starts)
        before = self._clock()
        try:
            error = self._instance.run([(start, start + batch)], forbid_retry)
        except _Retry:
            raise _BatchError(_message(" ".join(self._instance.failure.split()))) from None
        elapsed_s = self._clock() - before
        if error:
            raise _BatchError(_message(error))
        return elapsed_s


class _BatchError(Exception):
    """A batch can't be run; the text is one line, which ends the child."""


class _Retry(Exception):  # noqa: N818 (control flow: it carries no error)
    """The instance is about to retry a batch that failed as a whole."""


def _idle() -> None:
    time.sleep(_IDLE_S)


def _message(error: str) -> str:
    return error.replace("MemoryError", "out of memory", 1)


def fill_rows(arena: Arena) -> None:
    """Write plausible inputs into every row, and touch the rest of the arena."""
    generator = np.random.default_rng(0)
    for spec, view in zip(arena.spec.views, arena.views, strict=True):
        for slot in range(len(view)):  # one by one: large temporaries might be kept
            view[slot] = example_row(spec, generator)
        for symbol, size in spec.limits.items():
            arena.dims[arena.spec.symbols.index(symbol)] = size
    for predictions in arena.predictions:
        predictions[...] = 0
    arena.done[...] = 0


def _resize_rows(arena: Arena, sizes: Sequence[int]) -> None:
    """Give every row other sizes of its variable dimensions; texts become as long as they say."""
    by_symbol = dict(zip(arena.spec.symbols, sizes, strict=True))
    arena.dims[...] = np.array(sizes)[:, np.newaxis]
    for spec, view in zip(arena.spec.views, arena.views, strict=True):
        if spec.datatype == "BYTES":
            row = example_row(spec.sized(by_symbol), np.random.default_rng(0))
            view[:, : len(row)] = row
            arena.dims[arena.spec.symbols.index(spec.symbols[-1])] = len(row)


def write_example(arena: Arena, spec: InstanceSpec, example: Sequence[Array]) -> None:
    """Write a model's own example, one row of each input, into every row of its tensors."""
    for binding, row, tensor in zip(spec.bindings, example, spec.signature.inputs, strict=True):
        stored, view = arena.spec.views[binding.view], arena.views[binding.view]
        if binding.scaling is not None:
            continue
        if stored.datatype == "BYTES":
            texts = np.frombuffer(join_elements(row.ravel().tolist()), np.uint8)
            if len(texts) <= view.shape[1]:  # else it belongs to a larger length class
                view[:, : len(texts)] = texts
                arena.dims[arena.spec.symbols.index(stored.symbols[-1])] = len(texts)
        else:
            whole = repeated(row, (1, *view.shape[1:]))
            view[...] = convert(whole, tensor.datatype, stored.datatype)


def main() -> None:
    """Entry point of the child."""

    def run(spec: ProfilerSpec, commands: BinaryIO, status: StatusChannel) -> None:
        with contextlib.suppress(OSError):  # if memory runs out, the kernel kills this one first
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        bind_to_device(spec.device)
        profiler = _Profiler(spec)
        status.send(Loaded(profiler.worker_bytes))
        for line in iter(commands.readline, b""):
            status.send(profiler.run(msgspec.json.decode(line, type=Command)))

    run_role(lambda spec: ProcessName("profiler", spec.instance.source.member), ProfilerSpec, run)


if __name__ == "__main__":
    main()
