"""Where the members of a configuration go: devices, what members cost there, an allocation.

Runs in the process that plans an allocation, before anything is started. A configuration flows
in, a `Placement` flows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from allocator.devices import Device, Wanted, discover, memory_limit_bytes, select
from allocator.matrix import AllocationMatrix
from allocator.problem import NoPlaceError, Problem
from allocator.search.latency import OverloadError, search_latency
from allocator.search.search import Allocation, Solver, search
from allocator.search.spare import fill_spare_memory
from allocator.simulation import Figures, Host
from server.config import Config
from server.deployment.costs import PlannedProblem, plan_problem
from server.deployment.preference import prefer_small_batches
from server.errors import ConfigError
from server.members.composition import compose
from server.members.member import InspectedMember
from server.profiling import Measurements, OnProgress, profile_members
from server.profiling.comparison import SAME
from workers.runtime.spec import DeviceSpec

__all__ = [
    "Placement",
    "arena_budget_bytes",
    "find_devices",
    "place",
    "row_bytes",
]

_DEFAULT_ARENA_BYTES = 256 << 20
#: RAM left to the front-end, the combiner and the supervisor.
_PROCESSES_BYTES = 512 << 20


@dataclass(frozen=True)
class Placement:
    """Where the members go, and why.

    Attributes:
        matrix: the allocation matrix.
        problem: what it was searched for.
        allocation: what the search says about it.
        corrections: in what the problem differs from the plain performance model, a line each.
        found: what the members cost.
        host: what serving costs apart from predictions, for a simulation.
        figures: what a simulation says of it, if latency was the objective.
    """

    matrix: AllocationMatrix
    problem: Problem
    allocation: Allocation
    corrections: tuple[str, ...]
    found: Measurements
    host: Host
    figures: Figures | None = None


def arena_budget_bytes(config: Config) -> int:
    """The shared memory for all arenas together."""
    return int(config.server.arena_bytes or 0) or min(
        _DEFAULT_ARENA_BYTES, memory_limit_bytes() // 10
    )


def find_devices(config: Config) -> list[DeviceSpec]:
    """The devices of a configuration, each with its memory budget.

    Raises:
        ConfigError: if a device it names is not there.
    """
    reserve = arena_budget_bytes(config) + _PROCESSES_BYTES
    if config.devices == "auto":
        return [_spec(device) for device in discover(reserve_bytes=reserve)]
    wanted = [
        Wanted(one.name, one.cores, one.memory_bytes, one.part_of or "", one.memory_fraction)
        for one in config.devices
    ]
    try:
        return [_spec(device) for device in select(wanted, reserve_bytes=reserve)]
    except ValueError as error:
        raise ConfigError(f"devices: {error}") from None


def place(
    config: Config,
    members: Sequence[InspectedMember],
    devices: Sequence[DeviceSpec],
    *,
    profile_s: float | None,
    solver: Solver = "auto",
    time_limit_s: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Placement:
    """Find out what the members cost, and where they run best.

    Args:
        config: the configuration.
        members: all of its members.
        devices: where they may go.
        profile_s: how long may be spent on profiling; None is as long as it takes.
        solver: see `allocator.search.search`.
        time_limit_s: of the search; None for what the configuration says.
        seed: of the search.
        on_progress: called while members are profiled.

    Raises:
        ConfigError: if members disagree, or there is no room for them.
        StartError: if a member can't run on any device.
    """
    largest = _largest_batches(config, members)
    found = profile_members(config, members, devices, budget_s=profile_s, on_progress=on_progress)
    planned = plan_problem(found, devices, largest, row_bytes=row_bytes(members))
    planned = prefer_small_batches(planned, found)
    limit_s = time_limit_s or config.placement.time_limit_s
    try:
        if config.placement.objective == "latency":
            return _place_for_latency(config, found, planned, limit_s, seed)
        allocation = search(
            planned.problem,
            solver=solver,
            time_limit_s=limit_s,
            seed=seed,
            tolerance=SAME if found.noise else 0.0,
        )
    except (NoPlaceError, OverloadError) as error:
        raise ConfigError(str(error)) from None
    if config.placement.spare_memory == "fill":
        cells = fill_spare_memory(planned.problem, planned.problem.cells_of(allocation.matrix))
        allocation = replace(allocation, matrix=planned.problem.matrix(cells))
    return Placement(
        allocation.matrix, planned.problem, allocation, planned.corrections, found, planned.host
    )


def _place_for_latency(
    config: Config, found: Measurements, planned: PlannedProblem, limit_s: float, seed: int
) -> Placement:
    wanted = config.placement
    assert wanted.arrival_rows_s is not None, "the configuration's check demands it"
    allocation, figures = search_latency(
        planned.problem,
        rate_rows_s=wanted.arrival_rows_s,
        deadline_s=None if wanted.deadline_ms is None else wanted.deadline_ms / 1e3,
        host=planned.host,
        time_limit_s=limit_s,
        seed=seed,
    )
    return Placement(
        allocation.matrix,
        planned.problem,
        allocation,
        planned.corrections,
        found,
        planned.host,
        figures,
    )


def row_bytes(members: Sequence[InspectedMember]) -> int:
    """How many bytes clients send for a row, at most."""
    return max(sum(tensor.row_bytes for tensor in one.client_inputs) for one in members)


def _largest_batches(config: Config, members: Sequence[InspectedMember]) -> Mapping[str, int]:
    """Of how many rows the arena holds two batches, by member.

    Raises:
        ConfigError: if members disagree, which is better known before they are profiled.
    """
    names = tuple(member.name for member in members)
    matrix = AllocationMatrix(names, ("any",), ((1,) * len(names),))
    budget = arena_budget_bytes(config)
    trial = compose(config, members, matrix, budget_bytes=budget, offset=0)
    return {name: arena.capacity // 2 for arena in trial.arenas for name in arena.members}


def _spec(device: Device) -> DeviceSpec:
    return DeviceSpec(
        device.name,
        device.kind,
        int(device.memory_bytes),  # from a configuration it is a ByteSize, which has no JSON
        device.cores,
        uuid=device.uuid,
        pool=device.pool,
        virtual=device.virtual,
    )
