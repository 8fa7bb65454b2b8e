"""Runs a test, or a sweep of tests, in the parent: from options to summaries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ensembled_client.load.errors import LoadTestError
from ensembled_client.load.generator import GeneratorConfig
from ensembled_client.load.options import LoadOptions
from ensembled_client.load.probe import fetch_metadata, try_requests
from ensembled_client.load.processes import run_processes
from ensembled_client.load.report import progress_display
from ensembled_client.load.schedule import Schedule, divide, read_trace
from ensembled_client.load.stats import merge_stats
from ensembled_client.load.summary import Summary
from ensembled_client.load.workload import (
    Workload,
    file_inputs,
    input_specs,
    make_workload,
    random_inputs,
)

__all__ = ["generator_configs", "run_tests"]

_PROGRESS_S = 0.25
_Trace = tuple[tuple[float, int], ...]


def run_tests(options: LoadOptions) -> list[Summary]:
    """Run every test of a command, one after the other; an interrupted one is the last.

    Raises:
        LoadTestError: if a test can't run.
    """
    trace = _read_trace(options)
    workload = _workload(options, trace)
    summaries: list[Summary] = []
    for load in options.loads or (_mean_rate(trace),):
        configs = generator_configs(options, load, trace, workload)
        if not summaries:
            try_requests(configs[0])
        summaries.append(_run_test(options, load, configs))
        if summaries[-1].stats.was_interrupted:
            break
    return summaries


def _run_test(options: LoadOptions, load: float, configs: Sequence[GeneratorConfig]) -> Summary:
    title = "" if len(options.loads) < 2 else f"{load:g}: "
    with progress_display(title, wanted=not options.quiet) as display:
        if display is not None:
            configs = [dataclasses.replace(one, progress_s=_PROGRESS_S) for one in configs]
        stats = run_processes(configs, display or (lambda _: None))
    return Summary(merge_stats(stats), load, options.is_open, options.deadline_ms)


def _read_trace(options: LoadOptions) -> _Trace:
    if options.trace is None:
        return ()
    try:
        return read_trace(options.trace.read_text(encoding="utf-8"), rows=options.rows)
    except OSError as error:
        raise LoadTestError(f"{options.trace}: {error.strerror}") from None
    except ValueError as error:
        raise LoadTestError(f"{options.trace}: {error}") from None


def _mean_rate(trace: _Trace) -> float:
    length_s = trace[-1][0]
    return len(trace) / length_s if length_s > 0 else math.nan


def _workload(options: LoadOptions, trace: _Trace) -> Workload:
    specs = input_specs(fetch_metadata(options.target), dict(options.shapes))
    sizes = sorted({rows for _, rows in trace}) or [options.rows]
    inputs = {
        rows: file_inputs(specs, rows, options.input)
        if options.input
        else random_inputs(specs, rows, options.seed, options.image_size)
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
    options: LoadOptions, load: float, trace: _Trace, workload: Workload
) -> list[GeneratorConfig]:
    """Divide a test among its processes; no process is left without work.

    Args:
        options: of the command.
        load: connections, or requests per second.
        trace: recorded arrivals; empty for none.
        workload: the requests.
    """
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
