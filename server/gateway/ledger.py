"""The ledger: the requests that were accepted, until each has its one terminal answer.

Runs in the front-end's event loop, under the gateway. Requests flow in; their rows go into the
arena and wait for their members in the lists that `Dispatching` gives out. What the combiner has
ended, or defers to the next stage of a cascade, flows in as well, and answers flow out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence

from server.errors import DeadlineExceeded, RequestError
from server.front_end_spec import QueueLimits
from server.gateway.accepted import Bound, Request, ServedModel, answer_bytes
from server.gateway.admission import admit, check_time
from server.gateway.dispatching import Dispatching
from server.gateway.fleet import Fleet
from server.gateway.flows import Flow, Flows
from server.gateway.forecast import Forecast, learn
from server.gateway.inflight import InFlight
from server.gateway.memory_budget import COUNTED_BYTES, MemoryBudget
from workers.messages import Close, Deferred, Ended, Predicted, Predictions, ToCombiner

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)

#: So long after a request's deadline, it is answered without the combiner: that may hang.
_GRACE_S = 1.0
#: After what should not fail did, it is tried again that much later.
_AGAIN_S = 1.0
_EVERYBODY = (1 << 64) - 1


class Ledger:
    """All requests that were accepted and have no answer yet.

    Args:
        fleet: the workers, and the lists in which rows wait for them.
        flights: what is in each arena.
        dispatching: gives out what waits.
        limits: how much may wait.
        loop: the event loop, for futures and timers.
        tell_combiner: sends the combiner a message.
    """

    def __init__(
        self,
        fleet: Fleet,
        flights: Sequence[InFlight],
        dispatching: Dispatching,
        *,
        limits: QueueLimits,
        loop: asyncio.AbstractEventLoop,
        tell_combiner: Callable[[ToCombiner], None],
    ) -> None:
        self._fleet = fleet
        self._flights = flights
        self._dispatching = dispatching
        self._longest_s = limits.queue_s
        self._loop = loop
        self._tell_combiner = tell_combiner
        self._flows = Flows()
        self._forecast = Forecast(fleet.members)
        self._answers = MemoryBudget(limits.answer_bytes)
        self._requests: set[Request] = set()

    @property
    def requests(self) -> Collection[Request]:
        """All of them."""
        return self._requests

    # -- requests that come -------------------------------------------------------------------

    def accept(
        self,
        model: ServedModel,
        bound: Bound,
        *,
        arrived: float,
        on_slow: Callable[[Request], None] | None,
    ) -> Request:
        """Accept a request, or refuse it; the arguments are those of `Gateway.submit`.

        Raises:
            InvalidRequest: if more members should answer than are asked.
            Unavailable: if the quorum is impossible.
            QueueFull: if too many requests or rows wait already, if their answers hold too much, or
                if it can't be done in time.
        """
        nbytes = answer_bytes(model.spec, bound)
        if nbytes >= COUNTED_BYTES and self._answers.held_bytes:
            self._answers.check(nbytes)
        request = admit(
            model,
            bound,
            self._fleet.available(model.arena, model.spec.mask),
            flow=self._flows.of(model.arena, model.ensemble, bound.wish.level),
            arrived=arrived,
            future=self._loop.create_future(),
            now=time.monotonic(),
        )
        request.on_slow = on_slow
        flight = self._flights[model.arena]
        has_others_before = flight.room.requests or self._forecast.is_anybody_before(model.arena)
        if has_others_before:
            self._check_time(flight, request)
        if flight.room.requests or not self._place(flight, request):
            if request.claimed == 0:
                flight.room.check(request)
            flight.room.enter(request)
            self._serve_waiting(flight)
        self._requests.add(request)
        if nbytes >= COUNTED_BYTES:
            request.held_bytes = nbytes
            self._answers.hold(nbytes)
        if has_others_before:
            self._forecast.accept(request)
        if request.left_s:
            request.timer = self._loop.call_later(request.left_s, self._pass_deadline, request)
        return request

    def _check_time(self, flight: InFlight, request: Request) -> None:
        needed = request.expected.bit_count()
        if request.left_s:
            needed = min(needed, request.quorum)
        rows = flight.room.rows(request.flow)
        prospect = self._forecast.prospect(request, needed, rows)
        check_time(request, prospect, self._longest_s)

    def _pass_deadline(self, request: Request) -> None:
        self.close(
            request, DeadlineExceeded("the deadline has passed before a quorum had answered")
        )
        if request in self._requests:
            request.timer = self._loop.call_later(_GRACE_S, request.give_up)

    def close(self, request: Request, reason: RequestError) -> None:
        """Stop waiting for a request: its rows are answered if the quorum is there, else fail."""
        if request.close_reason is not None or request not in self._requests:
            return
        request.close_reason = reason
        model = request.model
        self._dispatching.enqueue_fresh()
        for start, stop in self._flights[model.arena].close(request):
            self._fleet.withdraw(model.arena, start, stop)
            self._tell_combiner(Close(model.arena, start, stop))
        if request.is_over:
            self._finish(request)

    def tell_slow(self, before: float) -> None:
        """Tell those who want to know that their requests, accepted before then, take long."""
        for request in self._requests:
            if request.on_slow is not None and request.accepted < before:
                request.on_slow(request)
                request.on_slow = None

    def _place(self, flight: InFlight, request: Request) -> bool:
        """Put a request's rows into the arena as far as there is room; whether all are there."""
        while request.claimed < request.rows:
            span = flight.place(request)
            if span is None:
                return False
            self._dispatching.let_wait(request, request.expected, span)
        return True

    def _serve_waiting(self, flight: InFlight) -> None:
        """Let waiting requests claim what has become free, a piece each in turn.

        A flow that gets nothing more, because it has its share, keeps none of the others waiting.
        """
        passed_over: set[Flow] = set()
        while (request := flight.room.first(passed_over)) is not None:
            span = flight.place(request)
            if span is None:
                passed_over.add(request.flow)
                continue
            self._dispatching.let_wait(request, request.expected, span)
            flight.room.has_claimed(request, span[1] - span[0])

    def _finish(self, request: Request) -> None:
        self._requests.discard(request)
        if request.held_bytes:
            self._answers.give(request.held_bytes)
            request.held_bytes = 0
        now = time.monotonic()
        if request.forecast_s:
            learn(request, now)
        request.resolve(now)

    # -- rows that come back ------------------------------------------------------------------

    def settle_forgotten(self) -> None:
        """Settle rows that have ended in the arena, though nobody said so, or nobody could hear."""
        for index, flight in enumerate(self._flights):
            for ended in flight.unsettled_ends():
                self.settle(index, ended)

    def settle(self, index: int, ended: Ended) -> None:
        """Settle rows; if that fails, nobody else's may wait for it, and it is tried again."""
        try:
            self._try_to_settle(index, ended)
        except Exception:
            _log.exception("rows %d to %d could not be settled", ended.start, ended.stop)
            self._loop.call_later(_AGAIN_S, self.settle_forgotten)

    def _try_to_settle(self, index: int, ended: Ended) -> None:
        flight = self._flights[index]
        for request, (start, stop), complete in flight.settle(ended):
            # Whoever was not waited for must not find another row in its slot.
            if not complete and flight.are_awaited(start, stop):
                self._dispatching.enqueue_fresh()
                saved = self._fleet.withdraw(index, start, stop)
                request.saved += saved if ended.certain else 0
            if complete or not self._fleet.hold(index, start, stop):
                flight.slots.free(start, stop)
            if request.settled == request.rows:
                self._finish(request)
                continue
            if request.error is not None:
                self.close(request, request.error)
            if request.is_over:
                self._finish(request)
        if flight.room.requests:
            self._serve_waiting(flight)

    def release(self, arena: int, start: int, stop: int) -> None:
        """Free rows that had ended while a job still held them."""
        flight = self._flights[arena]
        flight.slots.free(start, stop)
        if flight.room.requests:
            self._serve_waiting(flight)

    def defer(self, deferred: Deferred) -> None:
        """Let rows wait for the next stage of their cascade."""
        arena = deferred.arena
        available = self._fleet.available(arena, _EVERYBODY)
        for request, span, mask in self._flights[arena].defer(deferred, available):
            if mask:
                self._dispatching.let_wait(request, mask, span)
            else:
                self._tell_combiner(Predicted((Predictions(arena, *span),)))
