"""The command `ensembled allocate`: searches for an allocation and tells what it found.

Runs in the process of the command line. A configuration, or a devices and a profiles file, flow
in; tables or JSON on stdout, the result file and a picture flow out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allocator.devices import Device
from allocator.documents import entries, text, whole_number
from allocator.problem import NoPlaceError, Problem
from allocator.profiles import Profiles
from allocator.search.latency import OverloadError, search_latency
from allocator.search.search import Allocation, Solver, search
from allocator.simulation import Figures
from server.cli.output import check_output, stdout_console, write_output
from server.config import Config
from server.deployment.placement import find_devices, place
from server.deployment.report import print_allocation, result_document
from server.errors import ConfigError
from server.measurement.allocation import (
    Trial,
    measure_allocation,
    print_trials,
    trials_document,
)
from server.members.inspect import inspect_members
from server.profiling.progress import progress_on_stderr
from server.stdout import echo

__all__ = ["Request", "allocate_config", "allocate_files", "read_problem"]

_TIME_LIMIT_S = 10.0
_NEEDS_RATE = "--deadline-ms needs --rate, the arrivals that it is for"


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        solver: see `allocator.search.search`.
        time_limit_s: of the search; None for the default.
        seed: of the search.
        as_json: print the result as JSON instead of tables.
        output: where to write the result, if anywhere.
        plot: where to draw the matrix, if anywhere: .svg or .png.
        rate_rows_s: search for the best latency at this rate of arrivals, if given.
        deadline_ms: for that, when an answer is late.
        measure_s: let the server decide between good allocations, if given; seconds of the
            longest measurement.
    """

    solver: Solver = "auto"
    time_limit_s: float | None = None
    seed: int = 0
    as_json: bool = False
    output: Path | None = None
    plot: Path | None = None
    rate_rows_s: float | None = None
    deadline_ms: float | None = None
    measure_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be written, before anything takes its time.

        Raises:
            ConfigError: if a file can't be written there.
        """
        check_output("--output", self.output)
        check_output("--plot", self.plot)
        if self.plot is not None and self.plot.suffix not in {".svg", ".png"}:
            raise ConfigError(f"--plot {self.plot}: should end in .svg or .png")
        if self.rate_rows_s is not None and self.solver != "auto":
            raise ConfigError(f"--rate has a search of its own, drop --solver {self.solver}")
        if self.measure_s is not None and self.rate_rows_s is not None:
            raise ConfigError("--measure is for the highest throughput, drop --rate")


def allocate_config(config: Config, request: Request, path: Path) -> None:
    """Place the members of a configuration, profiling those that are not known.

    Args:
        config: the configuration.
        request: what is asked.
        path: of its file.

    Raises:
        ConfigError: if the configuration is wrong, or there is no room for its members.
        StartError: if a member can't run, or no allocation can be measured.
    """
    config = _for_latency(config, request)
    if request.measure_s is not None and config.placement.objective == "latency":
        raise ConfigError("--measure is for objective throughput, placement says latency")
    members = inspect_members(config)
    with progress_on_stderr() as on_progress:
        placement = place(
            config if request.measure_s is None else _with_spare_memory_left(config),
            members,
            find_devices(config),
            profile_s=None,
            solver=request.solver,
            time_limit_s=request.time_limit_s,
            seed=request.seed,
            on_progress=on_progress,
        )
    allocation, trials = placement.allocation, tuple[Trial, ...]()
    if request.measure_s is not None:
        allocation, trials = measure_allocation(
            path,
            config,
            placement,
            longest_s=request.measure_s,
            seed=request.seed,
            on_line=lambda line: print(line, file=sys.stderr, flush=True),
        )
    _tell(
        request,
        allocation,
        placement.planned.problem,
        placement.planned.corrections,
        placement.figures,
        trials=trials,
    )


def _with_spare_memory_left(config: Config) -> Config:
    wanted = config.placement.model_copy(update={"spare_memory": "leave"})
    return config.model_copy(update={"placement": wanted})


def _for_latency(config: Config, request: Request) -> Config:
    """Let the rate and the deadline that were asked for go before the configuration's."""
    asked: dict[str, object] = {}
    if request.rate_rows_s is not None:
        asked |= {"objective": "latency", "arrival_rows_s": request.rate_rows_s}
    if request.deadline_ms is not None:
        asked |= {"deadline_ms": request.deadline_ms}
    wanted = config.placement.model_copy(update=asked)
    if wanted.objective == "throughput" and request.deadline_ms is not None:
        raise ConfigError(_NEEDS_RATE)
    if wanted.objective == "latency" and request.solver != "auto":
        raise ConfigError(
            f"the latency objective has a search of its own, drop --solver {request.solver}"
        )
    return config.model_copy(update={"placement": wanted})


def allocate_files(devices: Path, profiles: Path, request: Request) -> None:
    """Place the members of a profiles file on the devices of a file, by the plain model.

    Raises:
        ConfigError: if a file is wrong, or there is no room for the members.
    """
    if request.deadline_ms is not None and request.rate_rows_s is None:
        raise ConfigError(_NEEDS_RATE)
    problem = read_problem(devices, profiles)
    limit_s = request.time_limit_s or _TIME_LIMIT_S
    figures = None
    try:
        if request.rate_rows_s is not None:
            allocation, figures = search_latency(
                problem,
                rate_rows_s=request.rate_rows_s,
                deadline_s=None if request.deadline_ms is None else request.deadline_ms / 1e3,
                time_limit_s=limit_s,
                seed=request.seed,
            )
        else:
            allocation = search(
                problem, solver=request.solver, time_limit_s=limit_s, seed=request.seed
            )
    except (NoPlaceError, OverloadError) as error:
        raise ConfigError(str(error)) from None
    _tell(request, allocation, problem, (), figures)


def read_problem(devices: Path, profiles: Path) -> Problem:
    """Return the problem that a devices and a profiles file describe.

    Raises:
        ConfigError: if one of them can't be read, or is wrong.
    """
    path = devices
    try:
        pool = [
            Device(
                name=text(entry, "name", where),
                kind=text(entry, "kind", where),
                memory_bytes=whole_number(entry, "memory_bytes", where),
            )
            for where, entry in entries(devices.read_bytes(), "devices")
        ]
        path = profiles
        table = Profiles.from_json(profiles.read_bytes())
        path = devices
        return Problem(table.members, tuple(pool), table)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: {reason}") from None


def _tell(
    request: Request,
    allocation: Allocation,
    problem: Problem,
    corrections: Sequence[str],
    figures: Figures | None,
    *,
    trials: Sequence[Trial] = (),
) -> None:
    more = {"measured": trials_document(trials)} if trials else {}
    document = result_document(allocation, corrections, figures, **more)
    if request.output is not None:
        write_output("--output", request.output, document + "\n")
    if request.plot is not None:
        _draw(request.plot, allocation, problem)
    if request.as_json:
        echo(document)
    else:
        console = stdout_console()
        print_allocation(console, allocation, problem, corrections, figures)
        if trials:
            print_trials(console, trials)


def _draw(path: Path, allocation: Allocation, problem: Problem) -> None:
    try:
        from allocator.search.plot import draw_allocation  # noqa: PLC0415 (matplotlib is an extra)
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install 'ensembled[plot]'") from None
    try:
        draw_allocation(path, allocation, problem)
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror}") from None
