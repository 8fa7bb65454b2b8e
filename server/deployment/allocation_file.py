"""Reads allocation files, written by the user or by `ensembled allocate --output`.

Runs in the process that plans an allocation; a file flows in, a matrix that fits the configuration
flows out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from allocator.matrix import AllocationMatrix
from allocator.problem import readable_bytes
from server.config import Config
from server.deployment.costs import plan_problem
from server.errors import ConfigError
from server.members.member import InspectedMember
from server.profiling import profile_members
from workers.runtime.spec import DeviceSpec

__all__ = ["read_allocation", "read_matrix"]


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
    config: Config, members: Sequence[InspectedMember], devices: Sequence[DeviceSpec]
) -> AllocationMatrix:
    """Return the matrix of the allocation file that the configuration names.

    The memory of its instances is checked as far as members have been profiled before.

    Raises:
        ConfigError: if the file does not fit the configuration, or its instances the memory.
    """
    path = config.allocation
    assert path != "auto"
    matrix = read_matrix(path)
    problems = [
        *_differences("member", matrix.members, config.members),
        *_differences("device", matrix.devices, [device.name for device in devices], subset=True),
    ] or list(_overfull(config, matrix, members, devices))
    if problems:
        raise ConfigError(f"{path}: {problem}" for problem in problems)
    return matrix


def _overfull(
    config: Config,
    matrix: AllocationMatrix,
    members: Sequence[InspectedMember],
    devices: Sequence[DeviceSpec],
) -> Iterator[str]:
    """Yield the devices whose instances take more memory than there is, a line each."""
    found = profile_members(config, members, devices, budget_s=0.0)
    problem = plan_problem(found, devices, {member.name: 1 for member in members}).problem
    kinds = {device.name: device.kind for device in devices}
    position = {device.name: index for index, device in enumerate(problem.devices)}
    taken = [0] * len(problem.memory_domains)
    for device, member, batch in matrix.instances():
        if (member, kinds[device]) in found.estimated:
            continue
        known = found.profiles.of(member, kinds[device]).items()
        # A batch that was not measured takes at least as much as the next smaller one.
        sizes = [one.memory_bytes for size, one in known if size <= batch]
        taken[problem.domain_of[position[device]]] += max(sizes, default=0)
    for domain, total in zip(problem.memory_domains, taken, strict=True):
        if total > domain.memory_bytes:
            where = " + ".join(problem.devices[index].name for index in domain.devices)
            has, needs = readable_bytes(domain.memory_bytes), readable_bytes(total)
            yield f"{where}: its instances take {needs}, there is {has} for them"


def _differences(
    what: str, named: Sequence[str], existing: Collection[str], *, subset: bool = False
) -> list[str]:
    problems = [f"{what} {name!r} is not there" for name in named if name not in existing]
    if not subset:
        problems += [f"{what} {name!r} has no column" for name in existing if name not in named]
    return problems
