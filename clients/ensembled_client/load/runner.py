"""Runs a test, or a sweep of tests, in the parent: from options to summaries.

First the metadata is fetched and each kind of request is tried, so that mistakes end here, in one
line. Even a single load process is not the parent: a progress display in the same interpreter would
delay what is measured. `generator` describes the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import multiprocessing
import signal
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import httpx

from ensembled_client.load.generator import (
    READY,
    STOP,
    GeneratorConfig,
    Progress,
    connections,
    run_generator,
)
from ensembled_client.load.loops import LoadConnection
from ensembled_client.load.options import LoadOptions, LoadTarget, LoadTestError, authorization
from ensembled_client.load.report import progress_display
from ensembled_client.load.schedule import Schedule, Trace, divide, read_trace
from ensembled_client.load.stats import (
    RequestResult,
    RequestStats,
    connect_error,
    merge_stats,
)
from ensembled_client.load.summary import Summary
from ensembled_client.load.workload import (
    Workload,
    file_inputs,
    input_specs,
    make_workload,
    random_inputs,
)

__all__ = ["generator_configs", "run_tests"]

_LOOK_UP_S = 10.0
#: Errors that a load test is there to count; others mean that the request is wrong.
_COUNTED = ("429", "500", "503", "504", "RESOURCE", "UNAVAILABLE", "DEADLINE", "INTERNAL", "no ")
_READY_S = 60.0
_JOIN_S = 5.0
_POLL_S = 0.1
# Between the message and the start: it must have reached every process.
_LEAD_NS = 50_000_000


def run_tests(options: LoadOptions) -> list[Summary]:
    """Run every test of a command, one after the other; an interrupted one is the last.

    Raises LoadTestError if a test can't run, KeyboardInterrupt at the second Ctrl-C or before the
    start.
    """
    trace = _read_trace(options)
    workload = _make_workload(options, trace)
    _try_requests(options, workload)
    summaries: list[Summary] = []
    for load in options.loads or (_mean_rate(trace),):
        configs = generator_configs(options, load, trace, workload)
        title = "" if len(options.loads) < 2 else f"{load:g}: "
        with progress_display(title, is_quiet=options.quiet) as on_progress:
            stats = merge_stats(_run_processes(configs, on_progress))
        summaries.append(Summary(stats, load, options.is_open, options.deadline_ms))
        if stats.was_interrupted:
            break
    return summaries


def _read_trace(options: LoadOptions) -> Trace:
    if options.trace is None:
        return ()
    try:
        return read_trace(options.trace.read_text(encoding="utf-8"), rows=options.rows)
    except OSError as error:
        raise LoadTestError(f"{options.trace}: {error.strerror}") from None
    except ValueError as error:
        raise LoadTestError(f"{options.trace}: {error}") from None


def _mean_rate(trace: Trace) -> float:
    length_s = trace[-1][0]
    return len(trace) / length_s if length_s > 0 else math.nan


def _make_workload(options: LoadOptions, trace: Trace) -> Workload:
    lengths = None if options.input else options.lengths
    specs = input_specs(
        _fetch_metadata(options.target), dict(options.shapes), may_vary=lengths is not None
    )
    sizes = sorted({rows for _, rows in trace}) or [options.rows]
    inputs = {
        rows: file_inputs(specs, rows, options.input)
        if options.input
        else random_inputs(specs, rows, options.seed, options.image_size, lengths)
        for rows in sizes
    }
    return make_workload(
        options.target,
        specs,
        inputs,
        options.parameters,
        rows=sizes[0],
        payloads=options.payloads,
    )


def generator_configs(
    options: LoadOptions, load: float, trace: Trace, workload: Workload
) -> list[GeneratorConfig]:
    """Divide `load` connections or requests per second among processes; all get some."""
    connections = options.connections if options.is_open else int(load)
    processes = min(options.processes, connections, options.count or connections)
    count = None if options.is_open else options.count
    schedule = Schedule(
        rate=None if trace else load,
        poisson=options.arrivals == "poisson",
        trace=trace,
        rows=workload.rows,
        warmup_s=options.warmup_s,
        duration_s=options.duration_s,
        count=options.count,
        seed=options.seed,
    )
    return [
        GeneratorConfig(
            options=options,
            workload=workload,
            schedule=schedule if options.is_open else None,
            index=index,
            processes=processes,
            connections=divide(connections, index, processes),
            count=None if count is None else divide(count, index, processes),
        )
        for index in range(processes)
    ]


# -- before the first test ---------------------------------------------------------------------


def _fetch_metadata(target: LoadTarget) -> dict[str, Any]:
    """Fetch the model's metadata, as HTTP has it.

    Raises LoadTestError if the server can't be reached, has no such model, or replies nonsense.
    """
    if target.protocol == "grpc":
        from ensembled_client.load.grpc_connection import (  # noqa: PLC0415  (an extra)
            fetch_grpc_metadata,
        )

        document = fetch_grpc_metadata(target, _LOOK_UP_S)
    else:
        document = _fetch_http_metadata(target)
    try:
        inputs = [(one["name"], one["datatype"], one["shape"][0]) for one in document["inputs"]]
    except (KeyError, TypeError, IndexError):
        inputs = []
    if not inputs:
        raise LoadTestError(f"{target.url} does not speak the Open Inference Protocol")
    return document


def _fetch_http_metadata(target: LoadTarget) -> Any:
    url = f"{target.address.scheme}://{target.address.authority}{target.model_path}"
    try:
        # As the load: straight to the server, whatever proxy the environment names.
        response = httpx.get(
            url,
            headers=authorization(),
            timeout=_LOOK_UP_S,
            trust_env=False,
            verify=ssl.create_default_context(),
        )
        document = response.json()
    except httpx.HTTPError as error:
        raise LoadTestError(f"{target.url} can't be reached: {error}") from None
    except ValueError:
        document = None
    if response.status_code != httpx.codes.OK:
        message = document.get("error") if isinstance(document, dict) else None
        status = f"{response.status_code} {response.reason_phrase}"
        raise LoadTestError(f"{target.url}: {message or status}")
    return document


def _try_requests(options: LoadOptions, workload: Workload) -> None:
    """Send one request of each number of rows; LoadTestError unless the response is right."""
    for rows, requests in workload.requests.items():
        result = asyncio.run(_exchange(options, rows, requests[0]))
        if result.error is not None and not result.error.startswith(_COUNTED):
            raise LoadTestError(f"a request of {rows} rows was tried, and failed: {result.error}")


async def _exchange(options: LoadOptions, rows: int, request: bytes) -> RequestResult:
    ended: asyncio.Future[RequestResult] = asyncio.get_running_loop().create_future()

    def on_result(_: LoadConnection, result: RequestResult) -> None:
        if not ended.done():
            ended.set_result(result)

    async with connections(options, 1) as new_connection:
        connection = new_connection(on_result)
        try:
            await connection.open()
            connection.rows = rows
            connection.send(request)
            async with asyncio.timeout(options.patience_s):
                return await ended
        except TimeoutError:
            return RequestResult("no response to the trial")
        except OSError as error:
            raise LoadTestError(f"{options.target.url}: {connect_error(error)}") from None
        finally:
            await connection.close()


# -- load processes ----------------------------------------------------------------------------


def _run_processes(
    configs: Sequence[GeneratorConfig], on_progress: Callable[[Progress], None]
) -> list[RequestStats]:
    """Run every config in a process of its own, all at the same time; return their statistics.

    The first Ctrl-C (or SIGTERM) ends the test early, with a report; the second one, or one before
    the start, raises KeyboardInterrupt. Raises LoadTestError if a process fails.
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
                args=(config, theirs),
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
