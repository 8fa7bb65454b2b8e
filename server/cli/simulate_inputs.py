"""What `ensembled simulate` simulates: read from files, or found out for a configuration.

Runs in the process of the command line. A configuration, or files that describe devices, what
members cost there and where they run, flow in; a `Subject` flows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allocator.matrix import AllocationMatrix
from allocator.problem import NoPlaceError, Problem
from allocator.search.search import search
from allocator.simulation import EnsembleShare, Host
from server.cli.allocate import read_problem
from server.config import Config
from server.deployment.allocation_file import read_matrix
from server.deployment.costs import plan_problem
from server.deployment.placement import find_devices, place, row_bytes
from server.errors import ConfigError
from server.members.inspect import inspect_members
from server.profiling import profile_members
from server.profiling.progress import progress_on_stderr

__all__ = ["Subject", "configured", "described"]


@dataclass(frozen=True)
class Subject:
    """What is simulated.

    Attributes:
        problem: devices, and what members cost there.
        matrix: which member runs where.
        mix: the ensembles that requests are for; none means all are for all members.
        host: what serving costs apart from predictions.
    """

    problem: Problem
    matrix: AllocationMatrix
    mix: Sequence[EnsembleShare] = ()
    host: Host = Host()


def described(devices: Path, profiles: Path, allocation: Path | None, *, seed: int) -> Subject:
    """What files describe, by the plain model: front-end and combiner cost nothing.

    Args:
        devices: JSON, ``{"devices": [{"name", "kind", "memory_bytes"}]}``.
        profiles: JSON, ``{"profiles": [{"member", "device_kind", "batch", "latency_s",
            "memory_bytes"}]}``, as `ensembled profile` writes it.
        allocation: an allocation file, of some of the members; if None, one of all of them is
            searched.
        seed: of the search.

    Raises:
        ConfigError: if a file is wrong, the allocation does not fit, or there is no room.
    """
    problem = read_problem(devices, profiles)
    if allocation is None:
        try:
            return Subject(problem, search(problem, seed=seed).matrix)
        except NoPlaceError as error:
            raise ConfigError(str(error)) from None
    matrix = read_matrix(allocation)
    problem = replace(problem, members=matrix.members)
    _check(problem, matrix, allocation)
    return Subject(problem, matrix)


def configured(config: Config, allocation: Path | None, *, seed: int) -> Subject:
    """What a configuration describes, on the devices of this host; members are profiled.

    Requests are for its ensembles in equal shares; without ensembles, for its members.

    Args:
        config: the configuration.
        allocation: an allocation file; None for what the configuration says.
        seed: of the search, if it says `auto`.

    Raises:
        ConfigError: if the configuration is wrong, or the allocation does not fit.
        StartError: if a member can't run on any device.
    """
    members, devices = inspect_members(config), find_devices(config)
    path = allocation or (None if config.allocation == "auto" else config.allocation)
    with progress_on_stderr() as report:
        if path is None:
            placed = place(config, members, devices, profile_s=None, seed=seed, on_progress=report)
            planned, matrix = placed.planned, placed.allocation.matrix
        else:
            matrix = read_matrix(path)
            found = profile_members(config, members, devices, on_progress=report)
            largest = {one.member: one.batch for one in found.profiles}  # ascending: the last
            planned = plan_problem(found, devices, largest, row_bytes=row_bytes(members))
            _check(planned.problem, matrix, path)
    ensembles = [ensemble.members for ensemble in config.ensembles.values()]
    return Subject(
        planned.problem,
        matrix,
        [EnsembleShare(names) for names in ensembles or [(name,) for name in matrix.members]],
        planned.host,
    )


def _check(problem: Problem, matrix: AllocationMatrix, path: Path) -> None:
    if faults := problem.faults(matrix):
        raise ConfigError(f"{path}: {fault}" for fault in faults)
