"""Starts the load processes, lets them begin together, and collects their statistics.

Runs in the parent. Even a single generator has a process of its own: a progress display in the same
interpreter would delay what is measured. `generator` describes the messages.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from ensembled_client.load.errors import LoadTestError
from ensembled_client.load.generator import READY, STOP, GeneratorConfig, Progress, run_generator
from ensembled_client.load.stats import RequestStats

__all__ = ["run_processes"]

_READY_S = 60.0
_JOIN_S = 5.0
_POLL_S = 0.1
# Between the message and the start: it must have reached every process.
_LEAD_NS = 50_000_000


def run_processes(
    configs: Sequence[GeneratorConfig], on_progress: Callable[[Progress], None]
) -> list[RequestStats]:
    """Run every config in a process of its own, all at the same time.

    The first Ctrl-C (or SIGTERM) ends the test early, with a report; the second one at once.

    Args:
        configs: at least one.
        on_progress: called with the processes' messages.

    Returns:
        The statistics of each, in the order in which they ended.

    Raises:
        LoadTestError: if one of them fails.
        KeyboardInterrupt: at the second Ctrl-C, or before the start.
    """
    with _counted_interrupts() as interrupts, _started(configs) as pipes:
        _wait_ready(pipes, interrupts)
        _broadcast(pipes, time.monotonic_ns() + _LEAD_NS)
        return _collect(pipes, interrupts, on_progress)


@contextlib.contextmanager
def _counted_interrupts() -> Iterator[list[int]]:
    """Yield the signals that have come: SIGINT and SIGTERM."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda one, _: received.append(one)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _started(configs: Sequence[GeneratorConfig]) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    # Children inherit that SIGINT is ignored: Ctrl-C in a terminal goes to them, too.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for config in configs:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=run_generator,
                kwargs={"config": config, "pipe": theirs},
                name=f"ensembled-load {config.index}",
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
        _join(processes)


def _join(processes: Sequence[BaseProcess]) -> None:
    """Let them end by themselves, or kill them."""
    deadline_s = time.monotonic() + _JOIN_S
    for process in processes:
        process.join(max(0, deadline_s - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _wait_ready(pipes: Sequence[Connection], interrupts: Sequence[int]) -> None:
    deadline_s = time.monotonic() + _READY_S
    waiting = set(pipes)
    while waiting:
        if interrupts:
            raise KeyboardInterrupt
        if time.monotonic() > deadline_s:
            raise LoadTestError(f"the load processes were not ready within {_READY_S:g} s")
        for pipe, message in _messages(waiting):
            assert message == READY, message
            waiting.remove(pipe)


def _collect(
    pipes: Sequence[Connection],
    interrupts: Sequence[int],
    on_progress: Callable[[Progress], None],
) -> list[RequestStats]:
    stats: list[RequestStats] = []
    running = set(pipes)
    is_stopping = False
    while running:
        if len(interrupts) > 1:
            raise KeyboardInterrupt
        if interrupts and not is_stopping:
            is_stopping = True
            _broadcast(pipes, STOP)
        for pipe, message in _messages(running):
            if isinstance(message, Progress):
                on_progress(message)
            else:
                assert isinstance(message, RequestStats), message
                stats.append(message)
                running.remove(pipe)
    return stats


def _messages(pipes: Iterable[Connection]) -> list[tuple[Connection, object]]:
    """Receive what has come from load processes, or comes within a moment."""
    readable = set(wait(list(pipes), _POLL_S))
    try:
        messages = [(pipe, pipe.recv()) for pipe in pipes if pipe in readable]
    except (EOFError, OSError):
        raise LoadTestError("a load process ended unexpectedly") from None
    for _, message in messages:
        if isinstance(message, LoadTestError):
            raise message
    return messages


def _broadcast(pipes: Sequence[Connection], message: object) -> None:
    for pipe in pipes:
        with contextlib.suppress(OSError):  # it has ended: its last message is in the pipe
            pipe.send(message)
