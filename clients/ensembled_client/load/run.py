"""A whole test, or a sweep of them: runs in the parent, from options to figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from ensembled_client.load.asking import ask_metadata, try_once
from ensembled_client.load.bodies import make_workload
from ensembled_client.load.errors import LoadTestError
from ensembled_client.load.job import Job, divide
from ensembled_client.load.merging import merge
from ensembled_client.load.options import Options
from ensembled_client.load.processes import run_jobs
from ensembled_client.load.progress import progress_display
from ensembled_client.load.schedule import Schedule, read_trace
from ensembled_client.load.summary import Summary, summarise
from ensembled_client.load.tensors import from_files, inputs_of, made_up
from ensembled_client.load.workload import Workload

__all__ = ["jobs_for", "run_all"]

_PROGRESS_S = 0.25


def run_all(options: Options, on_summary: Callable[[Summary], None]) -> list[Summary]:
    """Run every test that the options ask for, one after the other.

    Args:
        options: what to do.
        on_summary: called after each test.

    Raises:
        LoadTestError: if a test can't be run.
    """
    trace = _trace(options)
    workload = _workload(options, trace)
    summaries: list[Summary] = []
    for load in options.loads or (_mean_rate(trace),):
        jobs = jobs_for(options, load, trace, workload)
        if not summaries:
            try_once(jobs[0])
        summaries.append(_run(options, load, jobs))
        on_summary(summaries[-1])
        if summaries[-1].was_stopped:
            break
    return summaries


def _run(options: Options, load: float, jobs: Sequence[Job]) -> Summary:
    title = "" if len(options.loads) < 2 else f"{load:g}: "
    with progress_display(title, wanted=not options.is_quiet) as display:
        if display is not None:
            jobs = [dataclasses.replace(job, progress_s=_PROGRESS_S) for job in jobs]
        tallies = run_jobs(jobs, display or (lambda _: None))
    return summarise(
        merge(tallies), load=load, is_open=options.is_open, deadline_ms=options.deadline_ms
    )


def _trace(options: Options) -> tuple[tuple[float, int], ...]:
    if options.trace is None:
        return ()
    try:
        return read_trace(options.trace.read_text(encoding="utf-8"), rows=options.rows)
    except OSError as error:
        raise LoadTestError(f"{options.trace}: {error.strerror}") from None
    except ValueError as error:
        raise LoadTestError(f"{options.trace}: {error}") from None


def _mean_rate(trace: Sequence[tuple[float, int]]) -> float:
    length_s = trace[-1][0]
    return len(trace) / length_s if length_s > 0 else math.nan


def _workload(options: Options, trace: Sequence[tuple[float, int]]) -> Workload:
    specs = inputs_of(ask_metadata(options.target), options.shapes)
    sizes = sorted({rows for _, rows in trace}) or [options.rows]
    inputs = {
        rows: from_files(specs, rows, options.inputs)
        if options.inputs
        else made_up(specs, rows, options.seed, options.image_size)
        for rows in sizes
    }
    return make_workload(
        options.target,
        specs,
        inputs,
        options.parameters,
        rows=sizes[0],
        distinct=options.distinct,
    )


def jobs_for(
    options: Options, load: float, trace: tuple[tuple[float, int], ...], workload: Workload
) -> list[Job]:
    """Divide a test among its processes; no process is left without work.

    Args:
        options: what to do.
        load: connections, or requests per second.
        trace: recorded arrivals, if there are some.
        workload: the requests.
    """
    lanes = options.connections if options.is_open else int(load)
    shares = [options.processes, lanes, options.count or lanes]
    processes = min(shares)
    schedule = _schedule(options, load, trace, workload.rows) if options.is_open else None
    closed_count = None if options.is_open else options.count
    return [
        Job(
            target=options.target,
            workload=workload,
            index=index,
            of=processes,
            lanes=divide(lanes, index, processes),
            schedule=schedule,
            warmup_s=options.warmup_s,
            duration_s=options.duration_s,
            count=None if closed_count is None else divide(closed_count, index, processes),
            patience_s=options.patience_s,
            deadline_s=None if options.deadline_ms is None else options.deadline_ms / 1e3,
            progress_s=None,
        )
        for index in range(processes)
    ]


def _schedule(
    options: Options, load: float, trace: tuple[tuple[float, int], ...], rows: int
) -> Schedule:
    return Schedule(
        rate=None if trace else load,
        poisson=options.arrivals == "poisson",
        trace=trace,
        rows=rows,
        warmup_s=options.warmup_s,
        duration_s=options.duration_s,
        count=options.count,
        seed=options.seed,
    )
