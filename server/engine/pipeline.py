"""The path of rows: into the arena, to the workers, and out again when they have ended.

Runs in the front-end's event loop, under the engine. Admitted requests flow in. Their rows claim
slots at once, or as soon as others free some; they are bound to devices in the next turn of the
event loop, when the requests that have already arrived are in, too. Jobs flow out to the workers,
and outcomes to the protocols.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from allocator.dispatch.flows import Flow
from allocator.dispatch.pending import Range
from allocator.dispatch.state import OpenJob
from server.engine.admission import AdmissionControl
from server.engine.arena_requests import ArenaRequests
from server.engine.fleet import Fleet
from server.engine.links import Links
from server.engine.request import Request
from server.errors import RequestError
from workers.runtime.messages import (
    Assign,
    Close,
    Deferred,
    Ended,
    Job,
    Predicted,
    Predictions,
)

if TYPE_CHECKING:
    from server.engine.tracing import JobTraces

__all__ = ["RowPipeline"]

_log = logging.getLogger(__name__)

#: After that time a failed attempt to collect answers is repeated.
_RETRY_S = 1.0


class RowPipeline:
    """The requests between their admission and their outcomes; `requests` are not over yet.

    `receive` processes the reports that have arrived; it is called before jobs are given out.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        arenas: Mapping[int, ArenaRequests],
        links: Links,
        admission: AdmissionControl,
        epoch: int,
        loop: asyncio.AbstractEventLoop,
        receive: Callable[[], None],
        traces: JobTraces | None,
    ) -> None:
        self._fleet = fleet
        self._arenas = arenas
        self._links = links
        self._admission = admission
        self._epoch = epoch
        self._loop = loop
        self._receive = receive
        self._traces = traces
        self.requests: set[Request] = set()
        self._empty: asyncio.Event | None = None
        self._is_due = False
        #: Rows that are pending from the next turn on: (arena, members, flow, ranges).
        self._fresh: list[tuple[int, int, Flow, list[Range]]] = []

    # -- requests -----------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Take over an admitted request: its rows go to the arena, or it waits for slots.

        Raises `QueueFull` if too many requests or rows of its flow wait already.
        """
        index = request.prepared.model.arena
        arena = self._arenas[index]
        while request.claimed < request.rows and not arena.queue.requests:
            span = arena.place(request)
            if span is None:
                break
            self._enqueue(request, request.admission.expected, span)
        if request.claimed < request.rows:
            if request.claimed == 0:
                arena.queue.check(request)
            arena.queue.append(request)
            self._serve_queue(index)
        self.requests.add(request)

    def close(self, request: Request, reason: RequestError) -> None:
        """Stop waiting for a request: its rows are answered if the quorum is there, else fail."""
        if request.close_reason is not None or request not in self.requests:
            return
        request.close_reason = reason
        arena = request.model.arena
        self.enqueue_fresh()
        for start, stop in self._arenas[arena].close(request):
            self._withdraw(arena, start, stop)
            self._links.send_to_combiner(Close(arena, start, stop))
        if request.is_over:
            self._finish(request)

    def is_idle(self, arenas: Collection[int]) -> bool:
        """Whether nothing of some arenas is left here, in the arenas, or with the workers."""
        return not (
            any(self._arenas[index].is_used for index in arenas)
            or any(request.prepared.model.arena in arenas for request in self.requests)
            or any(fresh[0] in arenas for fresh in self._fresh)
            or not self._fleet.is_idle(arenas)
        )

    async def wait_empty(self) -> None:
        """Wait until all requests are over."""
        if self.requests:
            self._empty = asyncio.Event()
            await self._empty.wait()

    def _finish(self, request: Request) -> None:
        self.requests.discard(request)
        now = time.monotonic()
        if request.held_bytes or request.forecast_s:
            self._admission.note_end(request, now)
        request.resolve(now)
        if self._empty is not None and not self.requests:
            self._empty.set()

    # -- into the arena -----------------------------------------------------------------------

    def _serve_queue(self, arena: int) -> None:
        """Let queued requests claim what has become free, a piece each in turn.

        A flow that gets nothing more, because it has its share, keeps none of the others waiting.
        """
        requests = self._arenas[arena]
        skipped: set[Flow] = set()
        while (request := requests.queue.first(skipped)) is not None:
            span = requests.place(request)
            if span is None:
                skipped.add(request.flow)
                continue
            self._enqueue(request, request.expected, span)
            requests.queue.note_claim(request, span[1] - span[0])

    def _enqueue(self, request: Request, members: int, span: Range) -> None:
        """Make a request's rows pending for the members in a mask, from the next turn on."""
        fresh, flow, arena = self._fresh, request.admission.flow, request.prepared.model.arena
        last = fresh[-1] if fresh else None
        if last and last[2] is flow and last[1] == members and last[0] == arena:
            last[3].append(span)
        else:
            fresh.append((arena, members, flow, [span]))
        if not self._is_due:
            self.dispatch_soon()

    def enqueue_fresh(self) -> None:
        """Make them pending now, so that they are found there."""
        fresh, self._fresh = self._fresh, []
        now = time.monotonic()
        for arena, members, flow, ranges in fresh:
            self._fleet.enqueue(arena, members, ranges, now, flow)

    def _withdraw(self, arena: int, start: int, stop: int) -> int:
        """Remove rows wherever they are pending; returns how many predictions that saves."""
        self._admission.forget_pending()
        return self._fleet.withdraw(arena, start, stop)

    # -- to the workers -----------------------------------------------------------------------

    def dispatch_soon(self) -> None:
        """Give out what can be given out, in the next turn of the event loop."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        try:
            self._receive()  # not every worker that has capacity now has rung the bell
        finally:
            self._is_due = False
        try:
            self._dispatch()
        finally:
            self._admission.forget_pending()
        self.pass_on()

    def _dispatch(self) -> None:
        self.enqueue_fresh()
        now = time.monotonic()
        by_device: dict[str, list[OpenJob]] = {}
        for job in self._fleet.dispatch(now):
            by_device.setdefault(job.placement.device.name, []).append(job)
        for device, jobs in by_device.items():
            message = Assign(self._epoch, tuple([self._message(job) for job in jobs]))
            for job in jobs:
                self._arenas[job.placement.member.arena].start(job.ranges, now)
            sent = self._links.assign(device, message)
            if sent < len(jobs):
                self._fleet.revert(device, jobs[sent:], now)
        self._request_wakeups()

    def _message(self, job: OpenJob) -> Job:
        traces = () if self._traces is None else self._traces.packed(job)
        return Job(job.id, job.placement.instance, tuple(job.ranges), traces)

    def _request_wakeups(self) -> None:
        """Ask for a wakeup from workers whose next finished job unblocks something."""
        for device, worker in self._fleet.workers.items():
            self._links.want_ready(device, self._fleet.awaits_ready(worker))

    # -- out again ----------------------------------------------------------------------------

    def pass_on(self) -> None:
        """Pass on which rows of the fleet are done, or free, without a report of their workers."""
        if self._fleet.predicted:
            predicted, self._fleet.predicted = self._fleet.predicted, []
            self._links.send_to_combiner(Predicted(tuple(predicted)))
        if self._fleet.released:
            released, self._fleet.released = self._fleet.released, []
            for arena, start, stop in released:
                self._arenas[arena].slots.free(start, stop)
                if self._arenas[arena].queue.requests:
                    self._serve_queue(arena)

    def defer(self, deferred: Deferred) -> None:
        """Move rows on to the next stage of their cascade."""
        arena = deferred.arena
        if arena not in self._arenas:
            return  # it is gone, and so are the rows
        for request, span, mask in self._arenas[arena].defer(deferred, self._fleet.served(arena)):
            if mask:
                self._enqueue(request, mask, span)
            else:
                self._links.send_to_combiner(Predicted((Predictions(arena, *span),)))

    def end_unreported(self) -> None:
        """End rows that have ended in the arena though no report of it has arrived."""
        for index, arena in self._arenas.items():
            for ended in arena.unreported_ends():
                self.end(index, ended)

    def end(self, arena: int, ended: Ended) -> None:
        """Collect the answers of ended rows and free their slots.

        If that fails, no other request may wait for it, and it is tried again.
        """
        try:
            self._end(arena, ended)
        except Exception:
            _log.exception(
                "the answers of rows %d to %d could not be collected", ended.start, ended.stop
            )
            self._loop.call_later(_RETRY_S, self.end_unreported)

    def _end(self, index: int, ended: Ended) -> None:
        arena = self._arenas.get(index)
        if arena is None:
            return  # it is gone, and so are the rows
        for request, (start, stop), complete in arena.collect(ended):
            # A member that was not waited for must not find another row in its slot.
            if not complete and arena.are_awaited(start, stop):
                self.enqueue_fresh()
                saved = self._withdraw(index, start, stop)
                request.saved += saved if ended.certain else 0
            if complete or not self._fleet.hold(index, start, stop):
                arena.slots.free(start, stop)
            else:
                self._request_wakeups()
            if request.ended == request.rows:
                self._finish(request)
                continue
            if request.error is not None:
                self.close(request, request.error)
            if request.is_over:
                self._finish(request)
        if arena.queue.requests:
            self._serve_queue(index)
