"""Starts the load processes, lets them begin together, and collects what they counted.

Runs in the parent, which draws and prints. Even one generator has a process of its own: a progress
display in the same interpreter would delay what is measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

from ensembled_client.load.errors import LoadTestError
from ensembled_client.load.generator import generate
from ensembled_client.load.job import Failed, Job, Progress, Ready, Start, Stop
from ensembled_client.load.recorder import Tally

__all__ = ["run_jobs"]

_START_S = 60.0
_JOIN_S = 5.0
_POLL_S = 0.1
# Between the word to start and the start: it must have reached everyone.
_LEAD_NS = 50_000_000


def run_jobs(jobs: Sequence[Job], on_progress: Callable[[Progress], None]) -> list[Tally]:
    """Run every job in a process of its own, all at the same time.

    The first Ctrl-C (or SIGTERM) ends the test early, with a report; the second one at once.

    Args:
        jobs: at least one.
        on_progress: called as the processes tell.

    Returns:
        What each has counted.

    Raises:
        LoadTestError: if one of them can't do its job.
        KeyboardInterrupt: at the second Ctrl-C, or before the start.
    """
    with _interrupts() as interrupts, _started(jobs) as pipes:
        _await_ready(pipes, interrupts)
        start = Start(time.monotonic_ns() + _LEAD_NS)
        for pipe in pipes:
            _tell(pipe, start)
        return _collect(pipes, interrupts, on_progress)


class _Interrupts:
    """Counts Ctrl-C."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


@contextlib.contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    counter = _Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, counter) for number in numbers]
    try:
        yield counter
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _started(jobs: Sequence[Job]) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    # Children inherit that SIGINT is ignored: Ctrl-C in a terminal goes to them, too.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for job in jobs:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=generate,
                kwargs={"job": job, "pipe": theirs},
                name=f"ensembled-load {job.index}",
                daemon=True,
            )
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        signal.signal(signal.SIGINT, handler)
        yield pipes
    finally:
        signal.signal(signal.SIGINT, handler)
        for pipe in pipes:
            pipe.close()
        _end(processes)


def _end(processes: Sequence[BaseProcess]) -> None:
    """Let them end by themselves; then make them."""
    deadline_s = time.monotonic() + _JOIN_S
    for process in processes:
        process.join(max(0, deadline_s - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _await_ready(pipes: Sequence[Connection], interrupts: _Interrupts) -> None:
    deadline_s = time.monotonic() + _START_S
    waiting = list(pipes)
    while waiting:
        if interrupts.count:
            raise KeyboardInterrupt
        if time.monotonic() > deadline_s:
            raise LoadTestError(f"the load processes were not ready within {_START_S:g} s")
        for pipe in _readable(waiting):
            message = _receive(pipe)
            assert isinstance(message, Ready), message
            waiting.remove(pipe)


def _collect(
    pipes: Sequence[Connection],
    interrupts: _Interrupts,
    on_progress: Callable[[Progress], None],
) -> list[Tally]:
    tallies: dict[Connection, Tally] = {}
    told = False
    while len(tallies) < len(pipes):
        if interrupts.count > 1:
            raise KeyboardInterrupt
        if interrupts.count and not told:
            told = True
            for pipe in pipes:
                _tell(pipe, Stop())
        for pipe in _readable([pipe for pipe in pipes if pipe not in tallies]):
            message = _receive(pipe)
            if isinstance(message, Progress):
                on_progress(message)
            else:
                assert isinstance(message, Tally), message
                tallies[pipe] = message
    return [tallies[pipe] for pipe in pipes]


def _readable(pipes: Sequence[Connection]) -> list[Connection]:
    ready = wait(pipes, _POLL_S)
    return [pipe for pipe in pipes if pipe in ready]


def _tell(pipe: Connection, message: object) -> None:
    with contextlib.suppress(OSError):  # it has ended: what it said last is in the pipe
        pipe.send(message)


def _receive(pipe: Connection) -> object:
    try:
        message: object = pipe.recv()
    except (EOFError, OSError):
        raise LoadTestError("a load process ended unexpectedly") from None
    if isinstance(message, Failed):
        raise LoadTestError(message.message)
    return message
