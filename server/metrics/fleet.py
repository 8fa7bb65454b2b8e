"""Metrics of members, their instances, workers and arenas.

Runs in the front-end's event loop. The state of the fleet and the engine flows in, metric families
flow out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import chain
from typing import Any

from allocator.dispatch.state import Member, Placement
from server.engine.arena_requests import ArenaRequests
from server.engine.fleet import Fleet
from server.engine.memory_budget import MemoryBudget
from server.engine.statistics import InstanceCounters, MemberCounters
from server.metrics.exposition import Counters, Family, Gauges, Histograms, families

__all__ = ["busy_seconds", "collect_arenas", "collect_fleet"]


def _oldest_pending_s(members: Sequence[Member]) -> float:
    since = [member.pending.since for member in members if member.pending.rows]
    return max(0.0, time.monotonic() - min(since)) if since else 0.0


#: Of pairs of a member, as a `Member` per length class, and its `MemberCounters`.
_MEMBER_METRICS = (
    Counters.define(
        "ensembled_member_rows_total", "Rows that the member predicted.", lambda item: item[1].rows
    ),
    Counters.define(
        "ensembled_member_failed_rows_total",
        "Rows that the member failed on.",
        lambda item: item[1].failed,
    ),
    Gauges.define(
        "ensembled_member_pending_rows",
        "Rows waiting for a worker.",
        lambda item: sum(member.pending.rows for member in item[0]),
    ),
    Gauges.define(
        "ensembled_member_oldest_pending_seconds",
        "Time that the oldest of the rows waiting for a worker has waited.",
        lambda item: _oldest_pending_s(item[0]),
    ),
    Histograms.define(
        "ensembled_batch_wait_seconds",
        "Time that the oldest row of a batch waited before the batch went to a worker.",
        lambda item: item[1].wait,
    ),
)
#: Of pairs of an instance, as a `Placement` per length class, and its `InstanceCounters`.
_INSTANCE_METRICS = (
    Histograms.define(
        "ensembled_batch_rows",
        "Rows of the batches that the instance predicted.",
        lambda item: item[1].rows,
    ),
    Histograms.define(
        "ensembled_batch_duration_seconds",
        "Duration of the batches that the instance predicted.",
        lambda item: item[1].times,
    ),
    Counters.define(
        "ensembled_instance_busy_seconds_total",
        "Time that the instance spent on its jobs.",
        lambda item: item[1].busy_s,
    ),
    Gauges.define(
        "ensembled_instance_max_batch_rows",
        "Maximum number of rows in a batch of the instance.",
        lambda item: max(placement.latency.batch for placement in item[0]),
    ),
)
#: Of the engine's `WorkerState`.
_WORKER_METRICS = (
    Gauges.define(
        "ensembled_device_open_jobs",
        "Jobs that the device's worker holds.",
        lambda worker: len(worker.state.jobs),
    ),
    Gauges.define(
        "ensembled_device_backlog_seconds",
        "Estimated time to finish the jobs that the device's worker holds.",
        lambda worker: worker.state.backlog_s(time.monotonic()),
    ),
    Gauges.define(
        "ensembled_worker_up",
        "Whether the device's worker accepts jobs.",
        lambda worker: worker.state.up,
    ),
    Gauges.define(
        "ensembled_worker_given_up",
        "Whether the device's worker was given up, because it keeps dying at its start.",
        lambda worker: worker.given_up,
    ),
)
#: Of the engine's `ArenaRequests`.
_ARENA_METRICS = (
    Gauges.define(
        "ensembled_arena_slots", "Rows that fit into the arena.", lambda arena: arena.arena.capacity
    ),
    Gauges.define(
        "ensembled_arena_used_slots",
        "Slots of the arena that are claimed.",
        lambda arena: arena.slots.held,
    ),
    Gauges.define(
        "ensembled_arena_waiting_requests",
        "Requests waiting for slots of the arena.",
        lambda arena: arena.queue.requests,
    ),
    Gauges.define(
        "ensembled_arena_waiting_rows",
        "Rows of requests waiting for slots of the arena.",
        lambda arena: sum(request.rows - request.claimed for request in arena.queue),
    ),
)


#: Of the `MemoryBudget` of requests' bodies.
_BODIES_METRICS = (
    Gauges.define(
        "ensembled_bodies_bytes",
        "Memory of the bodies of requests that are being received or not answered yet.",
        lambda bodies: bodies.held_bytes,
    ),
    Gauges.define(
        "ensembled_bodies_limit_bytes",
        "Maximum memory of all bodies together.",
        lambda bodies: bodies.limit_bytes,
    ),
)


async def collect_fleet(fleet: Fleet) -> AsyncIterator[Family[Any]]:
    """Yield the metrics of members, instances and workers."""
    members: dict[tuple[str], tuple[list[Member], MemberCounters]] = {}
    pairs = zip(chain(*fleet.members.values()), chain(*fleet.member_counters.values()), strict=True)
    for member, counted in pairs:
        members.setdefault((member.name,), ([], counted))[0].append(member)
    for family in families(_MEMBER_METRICS, ("member",), [*members.items()]):
        yield family
    instances: dict[tuple[str, str], tuple[list[Placement], InstanceCounters]] = {}
    for worker in fleet.workers.values():
        for placement, counters in zip(
            worker.placements.values(), worker.counters.values(), strict=True
        ):
            key = placement.device.name, placement.member.name
            instances.setdefault(key, ([], counters))[0].append(placement)
    for family in families(_INSTANCE_METRICS, ("device", "member"), [*instances.items()]):
        yield family
    workers = [((device,), worker) for device, worker in fleet.workers.items()]
    for family in families(_WORKER_METRICS, ("device",), workers):
        yield family


def busy_seconds(fleet: Fleet) -> dict[str, float]:
    """Return the seconds that each device has spent on jobs of the members it has."""
    return {
        device: sum(one.busy_s for one in {id(one): one for one in counters.values()}.values())
        for device, worker in fleet.workers.items()
        if (counters := worker.counters)
    }


async def collect_arenas(
    arenas: Callable[[], Sequence[ArenaRequests]], bodies: MemoryBudget
) -> AsyncIterator[Family[Any]]:
    """Yield the metrics of the arenas, of what waits for them, and of requests' bodies.

    Arenas are numbered within the present deployment: their own numbers never repeat.
    """
    numbered = [((str(number),), arena) for number, arena in enumerate(arenas())]
    for family in families(_ARENA_METRICS, ("arena",), numbered):
        yield family
    for family in families(_BODIES_METRICS, (), [((), bodies)]):
        yield family
