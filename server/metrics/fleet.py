"""Metrics of members, of their instances, of workers and of arenas.

Runs in the front-end's event loop. What the fleet and the engine know anyway flows in, metric
families flow out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from itertools import chain

from allocator.dispatch.state import Member
from server.engine.arena_requests import ArenaRequests
from server.engine.engine import Engine
from server.engine.fleet import Worker
from server.engine.memory_budget import MemoryBudget
from server.engine.statistics import MemberCounters
from server.metrics.families import AnyFamily, Counters, Gauges, Histograms

__all__ = ["ArenaMetrics", "FleetMetrics"]

_MEMBER = ("member",)
_INSTANCE = ("device", "member")
_DEVICE = ("device",)
_ARENA = ("arena",)


class FleetMetrics:
    """Collects those of members, instances and workers.

    Args:
        engine: has the fleet.
    """

    def __init__(self, engine: Engine) -> None:
        self._workers = engine.fleet.workers
        self._members = list(
            zip(chain(*engine.fleet.members), chain(*engine.fleet.member_counters), strict=True)
        )

    async def collect(self) -> AsyncIterator[AnyFamily]:
        """Members, instances, workers."""
        for families in (self._of_members, self._of_instances, self._of_workers):
            for family in families():
                yield family

    def _of_members(self) -> list[AnyFamily]:
        now = time.monotonic()

        def each(value: Callable[[Member], float]) -> list[tuple[tuple[str], float]]:
            return [((member.name,), value(member)) for member, _ in self._members]

        def counted(value: Callable[[MemberCounters], float]) -> list[tuple[tuple[str], float]]:
            return [((member.name,), value(counters)) for member, counters in self._members]

        def waited(member: Member) -> float:
            return max(0.0, now - member.pending.since) if member.pending.rows else 0.0

        return [
            Counters(
                "ensembled_member_rows_total",
                "Rows that the member predicted.",
                _MEMBER,
                counted(lambda counters: counters.rows),
            ),
            Counters(
                "ensembled_member_failed_rows_total",
                "Rows that the member failed on.",
                _MEMBER,
                counted(lambda counters: counters.failed),
            ),
            Gauges(
                "ensembled_member_pending_rows",
                "Rows that wait for a worker.",
                _MEMBER,
                each(lambda member: member.pending.rows),
            ),
            Gauges(
                "ensembled_member_oldest_pending_seconds",
                "How long the oldest of the rows that wait for a worker has waited.",
                _MEMBER,
                each(waited),
            ),
            Histograms(
                "ensembled_batch_wait_seconds",
                "How long the oldest row of a batch had waited when it went to a worker.",
                _MEMBER,
                (((member.name,), counters.wait) for member, counters in self._members),
            ),
        ]

    def _of_instances(self) -> list[AnyFamily]:
        named = [
            ((placement.device.name, placement.member.name), placement.latency.batch, counters)
            for worker in self._workers.values()
            for placement, counters in zip(worker.placements, worker.counters, strict=True)
        ]

        return [
            Histograms(
                "ensembled_batch_rows",
                "Rows of the batches that the instance predicted.",
                _INSTANCE,
                ((labels, counters.rows) for labels, _, counters in named),
            ),
            Histograms(
                "ensembled_batch_duration_seconds",
                "How long the batches took that the instance predicted.",
                _INSTANCE,
                ((labels, counters.times) for labels, _, counters in named),
            ),
            Counters(
                "ensembled_instance_busy_seconds_total",
                "Time that the instance spent on its jobs.",
                _INSTANCE,
                [(labels, counters.busy_s) for labels, _, counters in named],
            ),
            Gauges(
                "ensembled_instance_max_batch_rows",
                "The most rows that a batch of the instance may have.",
                _INSTANCE,
                [(labels, batch) for labels, batch, _ in named],
            ),
        ]

    def _of_workers(self) -> list[AnyFamily]:
        now = time.monotonic()

        def each(name: str, text: str, value: Callable[[Worker], float]) -> AnyFamily:
            samples = (((device,), value(worker)) for device, worker in self._workers.items())
            return Gauges(name, text, _DEVICE, samples)

        return [
            each(
                "ensembled_device_open_jobs",
                "Jobs that the device's worker holds.",
                lambda worker: len(worker.state.jobs),
            ),
            each(
                "ensembled_device_backlog_seconds",
                "How long the jobs should still take that the device's worker holds.",
                lambda worker: worker.state.backlog_s(now),
            ),
            each(
                "ensembled_worker_up",
                "Whether the device's worker takes jobs.",
                lambda worker: worker.state.up,
            ),
            each(
                "ensembled_worker_given_up",
                "Whether the device's worker keeps dying at its start.",
                lambda worker: worker.given_up,
            ),
        ]


class ArenaMetrics:
    """Collects those of the arenas and of what waits for them.

    Args:
        engine: has the arenas.
        bodies: what requests hold beside them.
    """

    def __init__(self, engine: Engine, bodies: MemoryBudget) -> None:
        self._arenas = engine.arenas
        self._bodies = bodies

    async def collect(self) -> AsyncIterator[AnyFamily]:
        """Slots, and what waits for them."""

        def each(name: str, text: str, value: Callable[[ArenaRequests], float]) -> AnyFamily:
            samples = (((str(at),), value(arena)) for at, arena in enumerate(self._arenas))
            return Gauges(name, text, _ARENA, samples)

        yield each(
            "ensembled_arena_slots",
            "Rows that fit into the arena.",
            lambda arena: arena.arena.capacity,
        )
        yield each(
            "ensembled_arena_used_slots",
            "Slots of the arena that are claimed.",
            lambda arena: arena.slots.held,
        )
        yield each(
            "ensembled_arena_waiting_requests",
            "Requests that wait for slots of the arena.",
            lambda arena: arena.room.requests,
        )
        yield each(
            "ensembled_arena_waiting_rows",
            "Rows of requests that wait for slots of the arena.",
            lambda arena: sum(request.rows - request.claimed for request in arena.room),
        )
        yield Gauges(
            "ensembled_bodies_bytes",
            "Bodies of requests that are received or not answered yet.",
            (),
            [((), self._bodies.held_bytes)],
        )
        yield Gauges(
            "ensembled_bodies_limit_bytes",
            "What bodies may take together.",
            (),
            [((), self._bodies.limit_bytes)],
        )
