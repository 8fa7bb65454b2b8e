"""From rows in the arena to jobs for workers: who waits for whom, and what is sent when.

Runs in the front-end's event loop, under the engine. Rows come in with the members that are to
predict them; they are bound to devices in the next turn of the loop, when the requests that have
already arrived are in, too. Jobs go out by the links.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from allocator.dispatch.flows import Flow
from allocator.dispatch.pending import Range
from allocator.dispatch.state import OpenJob
from server.engine.arena_requests import ArenaRequests
from server.engine.fleet import Fleet
from server.engine.links import Links
from server.engine.request import Request
from workers.runtime.messages import Assign, Job

if TYPE_CHECKING:
    from server.engine.tracing import JobTraces

__all__ = ["Dispatcher"]


class Dispatcher:
    """Lets rows wait for their members, and gives out what can be given out.

    Args:
        fleet: the workers, and the lists in which rows wait for them.
        arenas: whose rows these are.
        links: to the workers.
        epoch: this front-end's.
        traces: of the requests in a job, if there is tracing.
    """

    def __init__(
        self,
        fleet: Fleet,
        arenas: Sequence[ArenaRequests],
        links: Links,
        *,
        epoch: int,
        traces: JobTraces | None,
    ) -> None:
        self._fleet = fleet
        self._arenas = arenas
        self._links = links
        self._epoch = epoch
        self._traces = traces
        self._fresh: list[tuple[int, int, Flow, list[Range]]] = []

    def add(self, request: Request, members: int, span: Range) -> None:
        """Let a request's rows wait for the members in a mask, from the next turn on."""
        fresh, flow = self._fresh, request.admission.flow
        if fresh and fresh[-1][2] is flow and fresh[-1][1] == members:
            fresh[-1][3].append(span)
        else:
            fresh.append((request.prepared.model.arena, members, flow, [span]))

    def enqueue_fresh(self) -> None:
        """Let them wait from now on: whoever looks for rows in the lists finds them there."""
        fresh, self._fresh = self._fresh, []
        now = time.monotonic()
        for arena, members, flow, ranges in fresh:
            self._fleet.enqueue(arena, members, ranges, now, flow)

    def dispatch(self) -> None:
        """Send the workers what can be given out."""
        self.enqueue_fresh()
        now = time.monotonic()
        by_device: dict[str, list[OpenJob]] = {}
        for job in self._fleet.dispatch(now):
            by_device.setdefault(job.placement.device.name, []).append(job)
        for device, jobs in by_device.items():
            message = Assign(self._epoch, tuple([self._message(job) for job in jobs]))
            for job in jobs:
                self._arenas[job.placement.member.arena].start(job.ranges, now)
            if not self._links.assign(device, message):
                self._fleet.revert(device, jobs, now)
        self.want_ready()

    def want_ready(self) -> None:
        """Be woken by those workers whose next end of a job lets something go on."""
        for device, worker in self._fleet.workers.items():
            self._links.want_ready(device, self._fleet.awaits_ready(worker))

    def _message(self, job: OpenJob) -> Job:
        traces = () if self._traces is None else self._traces.packed(job)
        return Job(job.id, job.placement.instance, tuple(job.ranges), traces)
