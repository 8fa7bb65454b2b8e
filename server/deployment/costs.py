"""From what the members of a configuration cost to the problem that an allocation is searched for.

Runs in the process that plans an allocation. Measurements and devices flow in, a `Problem` and the
list of corrections flow out: what the plain performance model leaves out and a running server does
not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from allocator.devices import Device
from allocator.host import available_cores
from allocator.problem import Problem, readable_bytes
from allocator.profiles import Profile, Profiles
from allocator.simulation import Host
from server.profiling import Measurements
from workers.runtime.spec import DeviceSpec

__all__ = ["HOST", "HOST_ROW_S", "JOB_S", "PlannedProblem", "plan_problem"]

#: What serving takes of the CPU where front-end, combiner and workers share the cores: fitted to
#: five tiny networks at 1, 32 and 128 connections on two cores (`benchmarks.validation`).
HOST = Host(
    frontend_s_per_turn=160e-6,
    frontend_s_per_request=74e-6,
    frontend_s_per_byte=1e-9,
    frontend_s_per_job=2e-6,
    combiner_s_per_turn=107e-6,
    combiner_s_per_range=2e-6,
)
#: Of that, what a request of one row comes to when many are in flight, in seconds.
HOST_ROW_S = 100e-6
#: Seconds that a worker takes for a job beside the prediction: messages, and their answer.
JOB_S = 28e-6
#: What a worker takes by itself where none was ever measured.
_WORKER_BYTES = 100 << 20


@dataclass(frozen=True)
class PlannedProblem:
    """A problem, and in what it differs from the plain model.

    Attributes:
        corrections: one line each.
        host: what serving costs apart from predictions, for a simulation.
    """

    problem: Problem
    corrections: tuple[str, ...]
    host: Host


def plan_problem(
    found: Measurements,
    devices: Sequence[DeviceSpec],
    largest_batch: Mapping[str, int],
    *,
    row_bytes: int = 0,
) -> PlannedProblem:
    """Return the problem of placing the members that were measured on some devices.

    Args:
        found: what the members cost.
        devices: where they may go.
        largest_batch: by member, the largest batch of which the arena holds two.
        row_bytes: of one row of a request, for the simulation.
    """
    members = found.profiles.members
    unknown = dict.fromkeys((kind for _, kind in found.estimated), _WORKER_BYTES)
    planned, notes = _leave_memory_to_workers(devices, unknown | dict(found.worker_bytes))
    profiles = [
        replace(one, latency_s=_latency_s(one, found))
        for one in found.profiles
        if one.batch <= max(largest_batch[one.member], _least_batch(found.profiles, one))
    ]
    for member, kind, factor in found.slowdowns():
        notes.append(f"{member} on {kind} takes {factor:.2f} x as long beside busy neighbours")
    notes.append(f"each job takes a worker {JOB_S * 1e6:.0f} us beside its prediction")
    row_s = _host_row_s(devices)
    if row_s:
        took = f"{HOST_ROW_S * 1e6:.0f} us"
        notes.append(f"front-end and combiner take {took} of the CPU per request of one row")
    for member, kind in found.estimated:
        notes.append(f"{member} on {kind} is estimated from its size, not measured")
    problem = Problem(members, tuple(planned), Profiles(profiles), row_s)
    # Where front-end and combiner have cores of their own, they cost the workers nothing.
    host = Host()
    if row_s:
        host = replace(HOST, cores=len(available_cores()), row_bytes=row_bytes)
    return PlannedProblem(problem, tuple(notes), host)


def _latency_s(one: Profile, found: Measurements) -> float:
    return one.latency_s * found.colocation.get((one.member, one.device_kind), 1.0) + JOB_S


def _least_batch(profiles: Profiles, one: Profile) -> int:
    """The smallest batch size is kept: that it does not fit is for the composition to say."""
    return min(profiles.of(one.member, one.device_kind))


def _leave_memory_to_workers(
    devices: Sequence[DeviceSpec], worker_bytes: Mapping[str, int]
) -> tuple[list[Device], list[str]]:
    """Subtract what the workers take by themselves; devices of a pool pay for each of them."""
    pools: Counter[str] = Counter()
    for device in devices:
        if device.pool:
            pools[device.pool] += worker_bytes.get(device.kind, 0)
    planned = []
    for device in devices:
        own = pools[device.pool] if device.pool else worker_bytes.get(device.kind, 0)
        left = max(device.memory_bytes - own, 0)
        planned.append(Device(device.name, device.kind, left, device.cores, device.pool))
    notes = [
        f"a worker on {kind} takes {readable_bytes(taken)} by itself"
        for kind, taken in worker_bytes.items()
    ]
    return planned, notes


def _host_row_s(devices: Sequence[DeviceSpec]) -> dict[str, float]:
    """Seconds of each CPU device that a row costs; nothing while a core is left to others."""
    used = {core for device in devices if not device.is_cuda for core in device.cores}
    cores = set(available_cores())
    if len(cores - used) >= 1 or not used:
        return {}
    return {device.name: HOST_ROW_S / len(cores) for device in devices if not device.is_cuda}
