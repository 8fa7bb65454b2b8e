"""`ensembled simulate`: predicts how an allocation would perform, without running it.

Runs in the process of the command line. A configuration, or files that describe devices, profiles
and an allocation, flow in, with a load; figures flow out on stdout, as tables or as JSON. The
devices need not exist.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from allocator.matrix import AllocationMatrix
from allocator.problem import NoPlaceError, Problem
from allocator.search.search import search
from allocator.simulation import (
    Arrivals,
    ClosedLoop,
    EnsembleShare,
    Figures,
    Loss,
    Poisson,
    Scenario,
    Trace,
    read_trace,
)
from allocator.simulation import simulate as simulate_serving
from server.cli.allocate import read_problem
from server.cli.application import file_errors, make_table, stdout_console
from server.config import Config
from server.deployment.costs import plan_problem
from server.deployment.devices import find_devices
from server.deployment.division import divided_devices, division_problems
from server.deployment.placement import place, read_matrix, row_bytes
from server.errors import ConfigError
from server.members.files import local_files
from server.members.inspect import inspect_members
from server.profiling import profile_members
from server.profiling.progress import progress_on_stderr
from server.stdout import echo

__all__ = [
    "make_arrivals",
    "scenario_from_config",
    "scenario_from_files",
    "simulate",
]

#: Without a load, so many times the rows of a member's batches are in flight.
_SATURATION = 4


def scenario_from_files(
    devices: Path, profiles: Path, allocation: Path | None, *, seed: int
) -> Scenario:
    """Read a scenario, saturated, in which front-end and combiner cost nothing.

    An allocation file may have some of the members only. Without it, an allocation of all of them
    is searched.

    Raises:
        ConfigError: if a file is wrong, the allocation does not match, or the members don't fit.
    """
    problem = read_problem(devices, profiles)
    if allocation is None:
        try:
            return _saturated(problem, search(problem, seed=seed).matrix, seed=seed)
        except NoPlaceError as error:
            raise ConfigError(str(error)) from None
    matrix = read_matrix(allocation)
    problem = replace(problem, members=matrix.members)
    _check(problem, matrix, allocation)
    return _saturated(problem, matrix, seed=seed)


def scenario_from_config(config: Config, allocation: Path | None, *, seed: int) -> Scenario:
    """Profile the members of a configuration on this host's devices, and saturate them.

    Requests are for its ensembles in equal shares, unless a trace says it; without ensembles, for
    its members. Without an allocation file, the allocation is the configuration's, and searched if
    that is `auto`.

    Raises:
        ConfigError: if the configuration is wrong, or the allocation does not match.
        StartError: if a member can't run on any device.
    """
    config = local_files(config)
    members, devices = inspect_members(config), tuple(find_devices(config))
    path = allocation or (None if config.allocation == "auto" else config.allocation)
    with progress_on_stderr() as report:
        if path is None:
            placed = place(config, members, devices, profile_s=None, seed=seed, on_progress=report)
            planned, matrix = placed.planned, placed.allocation.matrix
        else:
            matrix = read_matrix(path)
            if problems := list(division_problems(devices, matrix.devices)):
                raise ConfigError(f"{path}: {problem}" for problem in problems)
            devices = divided_devices(devices, matrix.devices)
            found = profile_members(config, members, devices, on_progress=report)
            largest = {one.member: one.batch for one in found.profiles}  # ascending: the last
            planned = plan_problem(found, devices, largest, row_bytes=row_bytes(config, members))
            _check(planned.problem, matrix, path)
    mix = [EnsembleShare(one.members, name=name) for name, one in config.ensembles.items()]
    mix = mix or [EnsembleShare((name,), name=name) for name in matrix.members]
    return _saturated(planned.problem, matrix, mix=mix, host=planned.host, seed=seed)


def _saturated(problem: Problem, matrix: AllocationMatrix, **more: Any) -> Scenario:
    try:
        return Scenario(
            matrix=matrix,
            devices=problem.devices,
            profiles=problem.profiles,
            arrivals=make_arrivals(matrix),
            **more,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check(problem: Problem, matrix: AllocationMatrix, path: Path) -> None:
    if faults := problem.faults(matrix):
        raise ConfigError(f"{path}: {fault}" for fault in faults)


def make_arrivals(
    matrix: AllocationMatrix,
    *,
    connections: int | None = None,
    rate: float | None = None,
    trace: Path | None = None,
    rows: int = 1,
) -> Arrivals:
    """Return a load of one kind; without any, as many connections as saturate the allocation.

    Raises:
        ConfigError: if there is more than one kind of load, or the trace can't be read.
    """
    kinds = {"--connections": connections, "--rate": rate, "--trace": trace}
    given = [option for option, value in kinds.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other")
    if trace is not None:
        with file_errors(str(trace)):
            return read_trace(trace.read_text(), rows=rows)
    with file_errors("the load"):
        if rate is not None:
            return Poisson(rate, rows)
        most_rows = max(sum(column) for column in zip(*matrix.cells, strict=True))
        return ClosedLoop(connections or math.ceil(_SATURATION * most_rows / rows), rows)


def simulate(
    scenario: Scenario,
    *,
    arrivals: Arrivals,
    seconds: float | None,
    deadline_ms: float | None,
    lose: Sequence[str],
    as_json: bool,
) -> None:
    """Simulate a scenario, under another load, and print the figures on stdout.

    Raises:
        ConfigError: if the options don't fit together.
    """
    try:
        scenario = replace(
            scenario,
            arrivals=arrivals,
            seconds=seconds,
            deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
            losses=[_parse_loss(one) for one in lose],
        )
        figures = simulate_serving(scenario)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if as_json:
        echo(_document(scenario, figures))
        return
    console = stdout_console()
    console.print(
        f"{_describe_load(arrivals)}; {figures.simulated_s:,.4g} s simulated, "
        f"figures of the last {figures.window_s:,.4g} s"
    )
    summary = make_table("", numbers=[""])
    summary.show_header = False
    for name, value in _summary(figures, deadline_ms):
        summary.add_row(name, value)
    console.print(summary)
    console.print(_device_table(scenario, figures))


def _parse_loss(text: str) -> Loss:
    device, _, times = text.rpartition("@")
    at, _, back = times.partition(":")
    try:
        lost_s = float(at)
        back_after_s = float(back) - lost_s if back else None
        if not device:
            raise ValueError
        return Loss(device, lost_s, back_after_s)
    except ValueError:
        raise ConfigError(
            f"--lose {text}: should be DEVICE@T or DEVICE@T:T2, seconds, T2 after T"
        ) from None


def _document(scenario: Scenario, figures: Figures) -> str:
    load = {"kind": type(scenario.arrivals).__name__, **vars(scenario.arrivals)}
    if requests := load.pop("requests", None):
        load["requests"] = len(requests)
    document = {
        "load": load,
        "seed": scenario.seed,
        "allocation": json.loads(scenario.matrix.to_json()),
        "figures": figures.to_json(),
    }
    return json.dumps(document, indent=1)


def _describe_load(arrivals: Arrivals) -> str:
    if isinstance(arrivals, Trace):
        return f"a trace of {len(arrivals.requests):,} requests"
    each = "1 row" if arrivals.rows == 1 else f"{arrivals.rows} rows"
    if isinstance(arrivals, ClosedLoop):
        return f"{arrivals.connections:,} connections, {each} per request"
    return f"{arrivals.rate:,g} requests/s, {each} each"


def _summary(figures: Figures, deadline_ms: float | None) -> Iterator[tuple[str, str]]:
    yield "rows/s", f"{figures.throughput_rows_s:,.1f}"
    yield "requests/s", f"{figures.requests_s:,.1f}"
    if figures.latency is not None:
        yield "p50 ms", f"{figures.latency.p50_s * 1e3:,.2f}"
        yield "p99 ms", f"{figures.latency.p99_s * 1e3:,.2f}"
        yield "longest ms", f"{figures.latency.max_s * 1e3:,.2f}"
    if deadline_ms is not None:
        yield f"later than {deadline_ms:g} ms", f"{figures.late_share:.2%}"
        yield "rows/s in time", f"{figures.goodput_rows_s:,.1f}"
    if figures.unanswered:
        yield "in flight at the end", f"{figures.unanswered:,}"


def _device_table(scenario: Scenario, figures: Figures) -> Table:
    matrix, kinds = scenario.matrix, {one.name: one.kind for one in scenario.devices}
    table = Table("device", "kind")
    table.add_column("busy", justify="right")
    table.add_column("member x batch size")
    for heading in ("rows", "rows/job"):
        table.add_column(heading, justify="right")
    for name in matrix.devices:
        instances = [one for one in figures.instances if one.device == name]
        busy = f"{figures.utilisation[name]:.1%}"
        if not instances:
            table.add_row(name, kinds[name], busy, "not used", "", "", end_section=True)
        for one in instances:
            table.add_row(
                *((name, kinds[name], busy) if one is instances[0] else ("", "", "")),
                f"{one.member} x{matrix.batch(name, one.member)}",
                f"{one.rows:,}",
                f"{one.mean_batch:.1f}",
                end_section=one is instances[-1],
            )
    return table
