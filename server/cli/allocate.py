"""`ensembled allocate`: searches for an allocation, measures candidates, prints the result.

Runs in the process of the command line. A configuration, or a devices and a profiles file, flow
in; tables or JSON on stdout, the result file and a plot flow out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from rich.table import Table

from allocator.documents import Name, Size, decode
from allocator.problem import Device, NoPlaceError, Problem
from allocator.profiles import Profiles
from allocator.search.energy import (
    EnergyFigures,
    FloorError,
    UnknownEnergyError,
    search_energy,
)
from allocator.search.latency import OverloadError, search_latency
from allocator.search.search import Allocation, Solver, search
from allocator.simulation import Figures, Host
from server.cli.application import (
    check_output,
    check_plot,
    file_errors,
    make_table,
    stdout_console,
    write_output,
)
from server.config import Config
from server.deployment.costs import PlannedProblem
from server.deployment.devices import find_devices
from server.deployment.placement import place
from server.deployment.report import print_allocation, result_document
from server.errors import ConfigError
from server.measurement.allocation import MeasuredAllocation, measure_allocation
from server.members.files import local_files
from server.members.inspect import inspect_members
from server.profiling.progress import progress_on_stderr
from server.stdout import echo

__all__ = [
    "AllocateOptions",
    "allocate_config",
    "allocate_files",
    "read_devices",
    "read_problem",
    "read_profiles",
]

_TIME_LIMIT_S = 10.0


@dataclass(frozen=True)
class AllocateOptions:
    """The options of the command, see `server.cli.placement_commands.allocate`."""

    solver: Solver
    time_limit_s: float | None
    seed: int
    as_json: bool
    output: Path | None
    plot: Path | None
    rate_rows_s: float | None
    deadline_ms: float | None
    measure_s: float | None
    min_rows_per_s: float | None = None

    @property
    def objective(self) -> str | None:
        """What is optimized, None if the options leave it open."""
        if self.rate_rows_s is not None:
            return "latency"
        return "energy" if self.min_rows_per_s is not None else None

    def check(self, objective: str) -> None:
        """Fail before any work is done.

        Raises:
            ConfigError: if an option does not fit the objective, or a file can't be written.
        """
        check_output("--output", self.output)
        check_plot(self.plot)
        if self.rate_rows_s is not None and self.min_rows_per_s is not None:
            raise ConfigError(
                "--rate is for the latency, --min-rows-per-s for energy, drop one of them"
            )
        if self.deadline_ms is not None and objective != "latency":
            raise ConfigError("--deadline-ms needs --rate, the arrivals that it is for")
        if objective == "throughput":
            return
        if self.solver != "auto":
            raise ConfigError(f"{objective} has a search of its own, drop --solver {self.solver}")
        if self.measure_s is not None:
            options = {"latency": "--rate", "energy": "--min-rows-per-s"}
            where = options[objective] if self.objective else "placement.objective"
            raise ConfigError(f"--measure is for the highest throughput, drop {where}")


def allocate_config(config: Config, options: AllocateOptions, path: Path) -> Allocation:
    """Place the members of a configuration file, profiling those without a profile.

    What was found is printed, and returned.

    Raises:
        ConfigError: if the configuration is wrong, or its members don't fit the devices.
        StartError: if a member can't run, or no allocation can be measured.
    """
    given: dict[str, object] = {}
    if options.rate_rows_s is not None:
        given |= {"objective": "latency", "arrival_rows_s": options.rate_rows_s}
    if options.min_rows_per_s is not None:
        given |= {"objective": "energy", "min_rows_per_s": options.min_rows_per_s}
    if options.deadline_ms is not None:
        given |= {"deadline_ms": options.deadline_ms}
    config = _update_placement(config, given)
    options.check(config.placement.objective)
    config = local_files(config)
    members = inspect_members(config)
    # What fills spare memory is measured, too.
    left = {} if options.measure_s is None else {"spare_memory": "leave"}
    with progress_on_stderr() as on_progress:
        placement = place(
            _update_placement(config, left),
            members,
            find_devices(config),
            profile_s=None,
            solver=options.solver,
            time_limit_s=options.time_limit_s,
            seed=options.seed,
            on_progress=on_progress,
        )
    allocation, measured = placement.allocation, tuple[MeasuredAllocation, ...]()
    if options.measure_s is not None:
        allocation, measured = measure_allocation(
            path, config, placement, longest_s=options.measure_s, seed=options.seed
        )
    found = _Found(allocation, placement.planned, placement.figures, placement.energy, measured)
    _print_result(options, found)
    return allocation


def _update_placement(config: Config, given: Mapping[str, object]) -> Config:
    placement = config.placement.model_copy(update=given)
    return config.model_copy(update={"placement": placement})


def allocate_files(devices: Path, profiles: Path, options: AllocateOptions) -> None:
    """Place the members of a profiles file on the devices of a file, by the plain model.

    Raises:
        ConfigError: if a file is wrong, or the members don't fit the devices.
    """
    options.check(options.objective or "throughput")
    problem = read_problem(devices, profiles)
    limit_s = options.time_limit_s or _TIME_LIMIT_S
    figures, energy = None, None
    try:
        if options.rate_rows_s is not None:
            allocation, figures = search_latency(
                problem,
                rate_rows_s=options.rate_rows_s,
                deadline_s=None if options.deadline_ms is None else options.deadline_ms / 1e3,
                time_limit_s=limit_s,
                seed=options.seed,
            )
        elif options.min_rows_per_s is not None:
            allocation, energy = search_energy(
                problem,
                min_rows_per_s=options.min_rows_per_s,
                time_limit_s=limit_s,
                seed=options.seed,
            )
        else:
            allocation = search(
                problem, solver=options.solver, time_limit_s=limit_s, seed=options.seed
            )
    except (NoPlaceError, OverloadError, FloorError) as error:
        raise ConfigError(str(error)) from None
    except UnknownEnergyError as error:
        raise ConfigError(f"{profiles}: {error}: its profiles have no joules") from None
    found = _Found(allocation, PlannedProblem(problem, (), Host()), figures, energy)
    _print_result(options, found)


_Watts = Annotated[float, msgspec.Meta(ge=0)]


class _DeviceEntry(msgspec.Struct):
    name: Name
    kind: Name
    memory_bytes: Size
    idle_watts: _Watts = 0.0


class _DevicesFile(msgspec.Struct):
    devices: Annotated[list[_DeviceEntry], msgspec.Meta(min_length=1)]


def read_problem(devices: Path, profiles: Path) -> Problem:
    """Return the problem that a devices and a profiles file describe.

    Raises:
        ConfigError: if one of them can't be read, or is wrong.
    """
    pool, idle_watts = read_devices(devices)
    table = read_profiles(profiles)
    with file_errors(str(devices)):
        return Problem(table.members, pool, table, idle_watts=idle_watts)


def read_devices(path: Path) -> tuple[tuple[Device, ...], dict[str, float]]:
    """Return the devices of a file, and the watts that some take when idle, by device.

    Raises:
        ConfigError: if it can't be read, or is wrong.
    """
    with file_errors(str(path)):
        entries = decode(path.read_bytes(), _DevicesFile).devices
    pool = tuple(Device(one.name, one.kind, int(one.memory_bytes)) for one in entries)
    return pool, {one.name: one.idle_watts for one in entries if one.idle_watts}


def read_profiles(path: Path) -> Profiles:
    """Return the profiles of a file.

    Raises:
        ConfigError: if it can't be read, or is wrong.
    """
    with file_errors(str(path)):
        return Profiles.from_json(path.read_bytes())


@dataclass(frozen=True)
class _Found:
    """What is printed: `figures` of a simulation, `energy`, or what was `measured`, if any."""

    allocation: Allocation
    planned: PlannedProblem
    figures: Figures | None
    energy: EnergyFigures | None
    measured: Sequence[MeasuredAllocation] = ()


def _print_result(options: AllocateOptions, found: _Found) -> None:
    allocation, planned, measured = found.allocation, found.planned, found.measured
    rows = [vars(one) | {"matrix": one.matrix.cells} for one in measured]
    more = {"measured": rows} if measured else {}
    document = result_document(allocation, planned.corrections, found.figures, found.energy, **more)
    if options.output is not None:
        write_output("--output", options.output, document + "\n")
    if options.plot is not None:
        from allocator.search.plot import draw_allocation  # noqa: PLC0415 (matplotlib is an extra)

        with file_errors(f"--plot {options.plot}"):
            draw_allocation(options.plot, allocation, planned.problem)
    if options.as_json:
        echo(document)
    else:
        console = stdout_console()
        print_allocation(
            console,
            allocation,
            planned.problem,
            planned.corrections,
            found.figures,
            energy=found.energy,
        )
        if measured:
            console.print(_measurements_table(measured))


def _measurements_table(measured: Sequence[MeasuredAllocation]) -> Table:
    numbers = ("rows/s", "predicted", "seconds")
    table = make_table("allocation", numbers=numbers, title="measured allocations")
    for one in measured:
        rate = f"{one.rows_s:,.4g}" if one.rows_s else "fails"
        table.add_row(one.what, rate, f"{one.predicted_rows_s:,.4g}", f"{one.seconds:.3g}")
    return table
