"""Places the members of a configuration: by a search, or as an allocation file says.

Runs in the process that becomes the supervisor, or in a command, before anything is started. A
configuration, its inspected members and the devices flow in; a `PlacementResult`, or the matrix of
a file, flows out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from allocator.division import Divisible
from allocator.matrix import AllocationMatrix
from allocator.problem import NoPlaceError, Problem, readable_bytes
from allocator.search.division import Divided, search_divided, search_divided_latency
from allocator.search.energy import (
    EnergyFigures,
    FloorError,
    UnknownEnergyError,
    search_divided_energy,
)
from allocator.search.latency import OverloadError
from allocator.search.search import Allocation, Solver
from allocator.search.variants import fill_spare_memory
from allocator.simulation import Figures, Host
from server.config import Config, PlacementConfig
from server.deployment.costs import (
    PlannedProblem,
    plan_problem,
    prefer_small_batches,
)
from server.deployment.devices import arena_budget_bytes
from server.deployment.division import (
    divided_devices,
    division_problems,
    part_counts,
    profiled_devices,
)
from server.deployment.experience import read_experience, with_experience
from server.deployment.memory import instance_bytes, memory_domains
from server.errors import ConfigError
from server.history.windows import Served
from server.members.composition import compose
from server.members.inspect import InspectedMember
from server.profiling import Measurements, OnProgress, placed_devices, profile_members
from server.profiling.comparison import SAME
from workers.runtime.spec import DeviceSpec

__all__ = [
    "PlacementResult",
    "matrix_problems",
    "place",
    "placement_problem",
    "plain_problem",
    "read_allocation",
    "read_matrix",
    "row_bytes",
    "search_tolerance",
]


@dataclass(frozen=True)
class PlacementResult:
    """Where the members go, and why; `planned` is the problem that the allocation solves.

    `devices` are its devices, which may be parts of those there were; `figures` are of a simulation
    of it, if latency was the objective, `energy` if that was.
    """

    allocation: Allocation
    planned: PlannedProblem
    devices: tuple[DeviceSpec, ...]
    found: Measurements
    figures: Figures | None = None
    energy: EnergyFigures | None = None


def place(
    config: Config,
    members: Sequence[InspectedMember],
    devices: Sequence[DeviceSpec],
    *,
    profile_s: float | None,
    found: Measurements | None = None,
    solver: Solver = "auto",
    time_limit_s: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda what, done, total: None,
) -> PlacementResult:
    """Profile the members, and search for the allocation with which they run best.

    CPU devices are divided among workers if the configuration leaves that to the search. Profiling
    takes `profile_s` at most, if that is not None, and the search `time_limit_s`, or what the
    configuration says. Nothing is profiled if it is known what the members cost: `found`.

    Raises:
        ConfigError: if members disagree, the devices have too little memory for them, or the
            objective can't be reached.
        StartError: if a member can't run on any device.
    """
    largest = _largest_batches(config, members)
    profiled = profiled_devices(config, devices)
    if found is None:
        found = profile_members(
            config,
            members,
            profiled,
            budget_s=profile_s,
            problem_of=plain_problem(config, members, profiled),
            on_progress=on_progress,
        )
    possible = {device.name: device for device in (*devices, *profiled)}
    served = read_experience(config)
    planned = _planned_problem(config, members, [*possible.values()], found, largest, served=served)
    section = config.placement
    divisible = Divisible(
        replace(planned.problem, devices=placed_devices(devices)),
        part_counts(config, devices),
        planned.worker_bytes,
    )
    best, energy = _searched(
        section,
        divisible,
        planned.host,
        solver=solver,
        time_limit_s=time_limit_s or section.time_limit_s,
        seed=seed,
        tolerance=search_tolerance(found),
    )
    problem, allocation = best.problem, best.allocation
    if section.objective == "throughput" and section.spare_memory == "fill":
        cells = fill_spare_memory(problem, problem.cells_of(allocation.matrix))
        allocation = replace(allocation, matrix=problem.matrix(cells))
    parts = divided_devices(devices, allocation.matrix.devices)
    used = found.of_kinds({part.kind for part in parts})
    planned = _planned_problem(config, members, parts, used, largest, served=served)
    planned = replace(planned, problem=problem)
    return PlacementResult(allocation, planned, parts, found, best.figures, energy)


def _searched(
    section: PlacementConfig,
    divisible: Divisible,
    host: Host,
    *,
    solver: Solver,
    time_limit_s: float,
    seed: int,
    tolerance: float,
) -> tuple[Divided, EnergyFigures | None]:
    """Search for what is best by the objective.

    Raises:
        ConfigError: if there is no place, or the objective can't be reached.
    """
    search: Callable[..., Divided]
    search = partial(search_divided, solver=solver, tolerance=tolerance)
    if section.objective == "latency":
        assert section.arrival_rows_s is not None, "the configuration was validated"
        deadline_s = None if section.deadline_ms is None else section.deadline_ms / 1e3
        rate = section.arrival_rows_s
        search = partial(search_divided_latency, rate_rows_s=rate, deadline_s=deadline_s, host=host)
    try:
        if section.objective != "energy":
            return search(divisible, time_limit_s=time_limit_s, seed=seed), None
        assert section.min_rows_per_s is not None, "the configuration was validated"
        return search_divided_energy(
            divisible,
            min_rows_per_s=section.min_rows_per_s,
            time_limit_s=time_limit_s,
            seed=seed,
        )
    except (NoPlaceError, OverloadError, FloorError) as error:
        raise ConfigError(str(error)) from None
    except UnknownEnergyError as error:
        raise ConfigError(
            f"placement.objective: energy: {error}: no meter is readable (NVML, RAPL: root only), "
            "or too little time was left for it; devices[].watts lets it be estimated"
        ) from None


def search_tolerance(found: Measurements) -> float:
    """Return the share of a throughput that is within the noise of what was measured."""
    return SAME if found.noise else 0.0


def plain_problem(
    config: Config, members: Sequence[InspectedMember], devices: Sequence[DeviceSpec]
) -> Callable[[Measurements], Problem]:
    """Return how to make the problem of measurements, with all batch sizes that there may be.

    Raises:
        ConfigError: if members disagree.
    """
    largest = _largest_batches(config, members)
    return lambda found: plan_problem(found, devices, largest).problem


def placement_problem(
    config: Config,
    members: Sequence[InspectedMember],
    devices: Sequence[DeviceSpec],
    found: Measurements,
) -> Problem:
    """Return what an allocation of measured members is searched for."""
    largest = _largest_batches(config, members)
    served = read_experience(config)
    return _planned_problem(config, members, devices, found, largest, served=served).problem


def _planned_problem(
    config: Config,
    members: Sequence[InspectedMember],
    devices: Sequence[DeviceSpec],
    found: Measurements,
    largest: Mapping[str, int],
    *,
    served: Sequence[Served],
) -> PlannedProblem:
    planned = plan_problem(found, devices, largest, row_bytes=row_bytes(config, members))
    if config.placement.objective != "energy":  # for which larger batches, as fast, may be better
        planned = prefer_small_batches(planned, found)
    return with_experience(planned, served, members)


def row_bytes(config: Config, members: Sequence[InspectedMember]) -> int:
    """Return the most bytes that clients send for a row, to an ensemble or a lone member."""
    by_name = {member.name: member for member in members}
    asked = [*((name,) for name in by_name), *(one.members for one in config.ensembles.values())]
    return max(_sent_bytes([by_name[name] for name in names]) for names in asked)


def _sent_bytes(members: Iterable[InspectedMember]) -> int:
    """Bytes of a row of the union of some members' inputs; images as the largest pixels."""
    sizes: dict[str, int] = {}
    for one in [one for member in members for one in member.inputs]:
        sizes[one.sent.name] = max(one.pixels.row_bytes, sizes.get(one.sent.name, 0))
    return sum(sizes.values())


def _largest_batches(config: Config, members: Sequence[InspectedMember]) -> Mapping[str, int]:
    """By member, the largest batch of which its arena holds two.

    Raises:
        ConfigError: if members disagree, which is reported before they are profiled.
    """
    names = tuple(member.name for member in members)
    matrix = AllocationMatrix(names, ("any",), ((1,) * len(names),))
    budget = arena_budget_bytes(config)
    composition = compose(config, members, matrix, budget_bytes=budget)
    return {name: arena.capacity // 2 for arena in composition.arenas for name in arena.members}


def read_matrix(path: Path) -> AllocationMatrix:
    """Return the matrix of an allocation file.

    Raises:
        ConfigError: if it can't be read, or is not an allocation file.
    """
    try:
        return AllocationMatrix.from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_allocation(
    config: Config, devices: Sequence[DeviceSpec], found: Measurements
) -> AllocationMatrix:
    """Return the matrix of the allocation file that the configuration names.

    The memory of its instances is checked as far as `found` rests on measurements.

    Raises:
        ConfigError: if the file does not fit the configuration, or its instances the memory.
    """
    path = config.allocation
    assert path != "auto"
    matrix = read_matrix(path)
    if problems := list(matrix_problems(matrix, config, devices, found)):
        raise ConfigError(f"{path}: {problem}" for problem in problems)
    return matrix


def matrix_problems(
    matrix: AllocationMatrix,
    config: Config,
    devices: Sequence[DeviceSpec],
    found: Measurements,
    *,
    with_estimates: bool = False,
) -> Iterator[str]:
    """Yield why members can't be served by a matrix on devices, or on parts of them, a line each.

    Its instances take more memory than there is only if measurements say so, or estimates, too.
    """
    differences = [
        *_differences("member", matrix.members, config.members),
        *division_problems(devices, matrix.devices),
    ]
    parts = devices if differences else divided_devices(devices, matrix.devices)
    yield from differences or _overfull(matrix, parts, found, with_estimates=with_estimates)


def _overfull(
    matrix: AllocationMatrix,
    devices: Sequence[DeviceSpec],
    found: Measurements,
    *,
    with_estimates: bool,
) -> Iterator[str]:
    """Yield the devices whose instances take more memory than there is, a line each."""
    kinds = {device.name: device.kind for device in devices}
    domains = memory_domains(devices, found)
    taken: Counter[str] = Counter()
    for device, member, batch in matrix.instances():
        if with_estimates or (member, kinds[device]) not in found.estimated:
            taken[device] += instance_bytes(found, kinds[device], member, batch)
    for domain in domains:
        total = sum(taken[name] for name in domain.devices)
        if total > domain.memory_bytes:
            where = " + ".join(domain.devices)
            has, needs = readable_bytes(domain.memory_bytes), readable_bytes(total)
            yield f"{where}: its instances take {needs}, there is {has} for them"


def _differences(what: str, named: Sequence[str], existing: Collection[str]) -> list[str]:
    return [
        *(f"{what} {name!r} is not there" for name in named if name not in existing),
        *(f"{what} {name!r} has no column" for name in existing if name not in named),
    ]
