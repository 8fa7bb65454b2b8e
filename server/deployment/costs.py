"""Turns measured costs into the problem that an allocation is searched for.

Runs in the process that plans an allocation. Measurements and devices flow in, a `Problem` and a
list of corrections flow out: the costs of a running server that the plain performance model leaves
out. Differences between batch sizes that are no larger than noise are removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from allocator.division import leave_memory_to_workers
from allocator.host import available_cores
from allocator.problem import Problem, readable_bytes
from allocator.profiles import Profiles
from allocator.simulation import Host
from server.profiling import Measurements, placed_devices
from server.profiling.comparison import preferred_batch
from workers.runtime.spec import DeviceSpec

__all__ = [
    "HOST",
    "HOST_ROW_S",
    "JOB_S",
    "PlannedProblem",
    "plan_problem",
    "prefer_small_batches",
]

#: CPU time of serving where front-end, combiner and workers share the cores: fitted to five tiny
#: networks at 1, 32 and 128 connections on two cores (`benchmarks.validation`).
HOST = Host(
    frontend_s_per_turn=160e-6,
    frontend_s_per_request=74e-6,
    frontend_s_per_byte=1e-9,
    frontend_s_per_job=2e-6,
    combiner_s_per_turn=107e-6,
    combiner_s_per_range=2e-6,
)
#: Of that, the share of a request of one row when many are in flight, in seconds.
HOST_ROW_S = 100e-6
#: Seconds that a worker needs for a job's messages, beside the prediction.
JOB_S = 28e-6
#: Memory of a worker without members where none was ever measured.
_WORKER_BYTES = 100 << 20


@dataclass(frozen=True)
class PlannedProblem:
    """A problem, and its corrections to the plain performance model, a line each.

    `host` has the costs of serving apart from predictions, for a simulation; `worker_bytes`, by
    kind of device, what a worker takes by itself, which the problem leaves to it.
    """

    problem: Problem
    corrections: tuple[str, ...]
    host: Host
    worker_bytes: Mapping[str, int] = field(default_factory=dict)


def plan_problem(
    found: Measurements,
    devices: Sequence[DeviceSpec],
    largest_batch: Mapping[str, int],
    *,
    row_bytes: int = 0,
) -> PlannedProblem:
    """Return the problem of placing the measured members on devices.

    `largest_batch` is, by member, the largest of which the arena holds two; `row_bytes`, of a row
    of a request, are for a simulation.
    """
    unknown = dict.fromkeys((kind for _, kind in found.estimated), _WORKER_BYTES)
    worker_bytes = unknown | dict(found.worker_bytes)
    planned = leave_memory_to_workers(placed_devices(devices), worker_bytes)
    notes = [
        f"a worker on {kind} takes {readable_bytes(taken)} by itself"
        for kind, taken in worker_bytes.items()
    ]
    profiles = []
    for one in found.profiles:
        target = one.member, one.device_kind
        # The smallest is kept: if even that does not fit, the composition reports it.
        if one.batch <= max(largest_batch[one.member], min(found.profiles.of(*target))):
            profiles.append(one.at_pace(found.colocation.get(target, 1.0), JOB_S))
    for member, kind, factor in found.slowdowns():
        notes.append(f"{member} on {kind} takes {factor:.2f} x as long beside busy neighbours")
    notes.append(f"each job takes a worker {JOB_S * 1e6:.0f} us beside its prediction")
    row_s = _host_row_s(devices)
    if row_s:
        took = f"{HOST_ROW_S * 1e6:.0f} us"
        notes.append(f"front-end and combiner take {took} of the CPU per request of one row")
    for member, kind in found.estimated:
        notes.append(f"{member} on {kind} is predicted, nothing of it was measured")
    if found.predicted:
        notes.append(f"{found.predicted} of {len(found.profiles)} figures are predictions")
    problem = Problem(
        found.profiles.members,
        planned,
        Profiles(profiles),
        row_s,
        idle_watts=_idle_watts(devices, found),
    )
    # On cores of their own, front-end and combiner cost the workers nothing.
    host = Host()
    if row_s:
        host = replace(HOST, cores=len(available_cores()), row_bytes=row_bytes)
    return PlannedProblem(problem, tuple(notes), host, worker_bytes)


def prefer_small_batches(planned: PlannedProblem, found: Measurements) -> PlannedProblem:
    """Return the problem without batch sizes that are not clearly faster than a smaller one.

    No rate of an instance falls by more than the tolerance, and the throughput of an allocation is
    proportional to its rates: so neither does the throughput of the best allocation.
    """
    problem, notes = planned.problem, list(planned.corrections)
    profiles = []
    for member, kind in dict.fromkeys((one.member, one.device_kind) for one in problem.profiles):
        options = problem.profiles.of(member, kind)
        rates = {size: one.rows_per_s for size, one in options.items()}
        preferred = preferred_batch(rates, found.noise.get((member, kind), {}))
        fastest = max(rates, key=rates.__getitem__)
        if preferred < fastest:
            notes.append(
                f"{member} on {kind} has batches of {preferred}: those of {fastest} are "
                f"{rates[fastest] / rates[preferred] - 1:.1%} faster, which is not clear"
            )
        profiles += [one for size, one in options.items() if size <= preferred]
    searched = replace(problem, profiles=Profiles(profiles))
    return replace(planned, problem=searched, corrections=tuple(notes))


def _idle_watts(devices: Sequence[DeviceSpec], found: Measurements) -> dict[str, float]:
    """What GPUs draw as soon as they are used; parts of one share it evenly.

    Not CPU devices: the host's processors idle whatever is placed, since the server runs on them.
    """
    parts = Counter(device.uuid or device.name for device in devices)
    return {
        device.name: found.idle_watts[device.kind] / parts[device.uuid or device.name]
        for device in devices
        if device.is_cuda and device.kind in found.idle_watts
    }


def _host_row_s(devices: Sequence[DeviceSpec]) -> dict[str, float]:
    """Seconds that a row's serving costs each CPU device; nothing while a core is left for it."""
    used = {core for device in devices if not device.is_cuda for core in device.cores}
    cores = set(available_cores())
    if len(cores - used) >= 1 or not used:
        return {}
    return {device.name: HOST_ROW_S / len(cores) for device in devices if not device.is_cuda}
