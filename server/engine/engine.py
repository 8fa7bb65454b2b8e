"""The engine: takes requests, sees them through the arenas, gives each its one outcome.

Runs in the front-end's event loop, under every protocol; it knows none of them. Calls go one way::

    protocols --submit, close--> Engine --> ArenaRequests (slots, inputs, answers)
        ^                          |  +---> Dispatcher --> Fleet (pending rows) --> policy.bind
        +----on_done(outcome)------+  +---> Links (messages to workers and combiner)

Rows go into the arena when they are submitted, and to workers in the next turn of the event loop,
together with all others that have come by then. What the combiner has ended in one turn is
answered in one. See `workers.runtime.arena` for the life of a slot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, assert_never

from allocator.dispatch.flows import Flow, Flows
from server.engine.admission import admit, check_time, time_left_s
from server.engine.admission_queue import WaitingRoom
from server.engine.arena_requests import ArenaRequests
from server.engine.dispatcher import Dispatcher
from server.engine.fleet import Fleet
from server.engine.forecast import Forecast, learn
from server.engine.links import Links
from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget
from server.engine.request import Admission, Extras, Outcome, Prepared, Request, StoredInput, Trace
from server.engine.spec import QueueLimits, ServedModel
from server.errors import DeadlineExceeded, RequestError, Unavailable
from workers.runtime.arena import Arena
from workers.runtime.memory import BoardRow, SharedMemory
from workers.runtime.messages import (
    Close,
    Combined,
    CombinerHello,
    Deferred,
    Ended,
    Hello,
    Predicted,
    Predictions,
    Ready,
    Reset,
    Unsure,
)
from workers.runtime.spec import InstanceSpec

if TYPE_CHECKING:
    from server.engine.tracing import Tracer

__all__ = ["Engine"]

_log = logging.getLogger(__name__)

_TICK_S = 0.05
#: So long after a request's deadline, it is answered without the combiner: that may hang.
_GRACE_S = 1.0
#: After what should not fail did, it is tried again that much later.
_AGAIN_S = 1.0
_EVERYBODY = (1 << 64) - 1


class Engine:
    """The front-end's heart. Open it with `start`.

    Args:
        memory: the shared memory.
        links: to the workers and the combiner.
        epoch: this front-end's; grows with every one.
        instances: what each device's worker holds.
        workers: the workers that may hold work of a former front-end, as (device, incarnation):
            nothing is claimed until each has said that it is idle, or was reaped.
        starting: devices of those that hold nothing yet, and are not waited for.
        limits: how much may wait.
        loop: the event loop in which all of this happens.
        tracer: knows which requests are traced, if there is tracing.

    Attributes:
        arenas: what is in each arena.
        fleet: the workers, and the rows that wait for them.
        draining: whether no more requests are accepted.
    """

    def __init__(
        self,
        *,
        memory: SharedMemory,
        links: Links,
        epoch: int,
        instances: dict[str, tuple[InstanceSpec, ...]],
        workers: Sequence[tuple[str, int]],
        starting: Sequence[str] = (),
        limits: QueueLimits,
        loop: asyncio.AbstractEventLoop,
        tracer: Tracer | None = None,
    ) -> None:
        self._links = links
        self._epoch = epoch
        self._loop = loop
        self._longest_s = limits.queue_s
        self._unheard = {name: number for name, number in workers if name not in starting}
        self._combiner_idle = False
        self._opened = asyncio.Event()
        self._drained = asyncio.Event()
        self.draining = False
        self._board: BoardRow = memory.board("front-end")
        arenas = [Arena(memory, spec) for spec in memory.spec.arenas]
        self.arenas = [
            ArenaRequests(arena, WaitingRoom(limits.waiting_requests, limits.waiting_rows))
            for arena in arenas
        ]
        self.fleet = Fleet(arenas=arenas, instances=instances)
        self._traces = None if tracer is None else tracer.of_jobs(self.arenas)
        for name, incarnation in workers:
            self.worker_started(name, incarnation)
        self._dispatcher = Dispatcher(
            self.fleet, self.arenas, links, epoch=epoch, traces=self._traces
        )
        self._flows = Flows()
        self._forecast = Forecast(self.fleet.members)
        self._answers = MemoryBudget(limits.answer_bytes)
        self._requests: set[Request] = set()
        self._is_due = False
        #: By arena, whether rows wait for its members; None until somebody looks again.
        self._anybody_before: list[bool | None] = [None] * len(arenas)

    def start(self) -> None:
        """Begin to listen, and ask everybody to be idle."""
        self._links.start(self._loop, self._hear)
        self._links.tell_combiner(Reset(self._epoch))
        self._tick()

    # -- requests -----------------------------------------------------------------------------

    async def wait_open(self) -> None:
        """Wait until requests are accepted for the first time."""
        await self._opened.wait()

    @property
    def is_open(self) -> bool:
        """Whether requests are accepted: started and not draining."""
        return self._opened.is_set() and not self.draining

    @property
    def requests(self) -> Collection[Request]:
        """Those that were accepted and have not ended yet."""
        return self._requests

    def can_answer(self, model: ServedModel) -> bool:
        """Whether enough of the model's members live to meet its quorum."""
        available = self.fleet.available(model.arena, model.spec.mask)
        return available.bit_count() >= model.spec.quorum

    def check_open(self) -> None:
        """Whether requests are accepted.

        Raises:
            Unavailable: while starting or draining.
        """
        if self.draining:
            raise Unavailable("the server is draining", "draining")
        if not self._opened.is_set():
            raise Unavailable("the server is starting up", "starting")

    def submit(
        self,
        prepared: Prepared,
        inputs: list[StoredInput],
        rows: int,
        on_done: Callable[[Outcome], None],
        *,
        arrived: float,
        within_s: float = 0.0,
        trace: Trace | None = None,
    ) -> Request:
        """Accept a request.

        Args:
            prepared: what is asked.
            inputs: the rows, checked against the model; they may not change any more.
            rows: how many, at least 1.
            on_done: called once with the answer or the error, in a later turn of the event loop.
            arrived: when the request was there, on the monotonic clock: its deadline counts from
                then, so that what it took to decode it counts as well.
            within_s: how long it may take from then, beside what `prepared` says; 0 for ever.
            trace: of the request, if it is traced.

        Raises:
            InvalidRequest: if more members should answer than are asked.
            Unavailable: while starting or draining, or if the quorum is impossible.
            QueueFull: if too many requests or rows wait already, if their answers hold too much, or
                if it can't be done in time.
        """
        self.check_open()
        admission = prepared.admission
        if admission is None or admission.members_up != self.fleet.version:
            admission = self._admit(prepared)
        nbytes = rows * prepared.row_bytes
        if nbytes >= COUNTED_BYTES and self._answers.held_bytes:
            self._answers.check(nbytes)
        now = time.monotonic()
        request = Request(prepared, admission, inputs, rows, on_done, now)
        if prepared.limit_s or within_s:
            request.left_s = time_left_s(prepared, now - arrived, within_s)
        if prepared.has_extras:
            request.extras = Extras(prepared.model.spec, prepared.wish, rows)
        arena = prepared.model.arena
        room = self.arenas[arena].room
        has_others_before = room.requests or self._is_anybody_before(arena)
        if has_others_before:
            self._check_time(request)
        if room.requests or not self._place(request):
            if request.claimed == 0:
                room.check(request)
            room.enter(request)
            self._serve_waiting(arena)
        self._requests.add(request)
        if nbytes >= COUNTED_BYTES:
            request.held_bytes = nbytes
            self._answers.hold(nbytes)
        if has_others_before:
            self._forecast.accept(request)
        if request.left_s:
            request.timer = self._loop.call_later(request.left_s, self._pass_deadline, request)
        if trace is not None:
            trace.accepted, request.trace = now, trace
        return request

    def close(self, request: Request, reason: RequestError) -> None:
        """Stop waiting for a request: its rows are answered if the quorum is there, else fail."""
        if request.close_reason is not None or request not in self._requests:
            return
        request.close_reason = reason
        arena = request.model.arena
        self._dispatcher.enqueue_fresh()
        for start, stop in self.arenas[arena].close(request):
            self._withdraw(arena, start, stop)
            self._links.tell_combiner(Close(arena, start, stop))
        if request.is_over:
            self._finish(request)

    async def drain(self) -> None:
        """Refuse new requests and wait until those in flight have ended."""
        self.draining = True
        if self._requests:
            await self._drained.wait()

    def _admit(self, prepared: Prepared) -> Admission:
        model = prepared.model
        prepared.admission = admission = admit(
            prepared,
            self.fleet.available(model.arena, model.spec.mask),
            self._flows.get(model.arena, model.ensemble, prepared.wish.level),
            self.fleet.version,
        )
        return admission

    def _withdraw(self, arena: int, start: int, stop: int) -> int:
        """Let rows wait for nobody any more; how many predictions that saves."""
        self._anybody_before[arena] = None
        return self.fleet.withdraw(arena, start, stop)

    def _is_anybody_before(self, arena: int) -> bool:
        """Whether anything waits for a member of an arena: looked up once in a turn."""
        known = self._anybody_before[arena]
        if known is None:
            known = self._anybody_before[arena] = self._forecast.is_anybody_before(arena)
        return known

    def _check_time(self, request: Request) -> None:
        needed = request.expected.bit_count()
        if request.left_s:
            needed = min(needed, request.admission.quorum)
        rows = self.arenas[request.model.arena].room.rows(request.flow)
        prospect = self._forecast.prospect(request, needed, rows)
        check_time(request, prospect, self._longest_s)

    def _pass_deadline(self, request: Request) -> None:
        self.close(
            request, DeadlineExceeded("the deadline has passed before a quorum had answered")
        )
        if request in self._requests:
            request.timer = self._loop.call_later(_GRACE_S, request.give_up)

    def _place(self, request: Request) -> bool:
        """Put a request's rows into the arena as far as there is room; whether all are there."""
        arena = self.arenas[request.prepared.model.arena]
        while request.claimed < request.rows:
            span = arena.place(request)
            if span is None:
                return False
            self._dispatcher.add(request, request.admission.expected, span)
            self._dispatch_soon()
        return True

    def _serve_waiting(self, arena: int) -> None:
        """Let waiting requests claim what has become free, a piece each in turn.

        A flow that gets nothing more, because it has its share, keeps none of the others waiting.
        """
        requests = self.arenas[arena]
        passed_over: set[Flow] = set()
        while (request := requests.room.first(passed_over)) is not None:
            span = requests.place(request)
            if span is None:
                passed_over.add(request.flow)
                continue
            self._dispatcher.add(request, request.expected, span)
            self._dispatch_soon()
            requests.room.has_claimed(request, span[1] - span[0])

    def _finish(self, request: Request) -> None:
        self._requests.discard(request)
        if request.held_bytes:
            self._answers.give(request.held_bytes)
            request.held_bytes = 0
        now = time.monotonic()
        if request.forecast_s:
            learn(request, now)
        request.resolve(now)
        if self.draining and not self._requests:
            self._drained.set()

    # -- to the workers -----------------------------------------------------------------------

    def _dispatch_soon(self) -> None:
        """Give out what can be given out, in the next turn."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        try:
            self._hear()  # who has room now may not have said so aloud
        finally:
            self._is_due = False
        try:
            self._dispatcher.dispatch()
        finally:
            self._anybody_before = [None] * len(self.arenas)
        self._pass_on()

    def _pass_on(self) -> None:
        """Pass on what has come of rows in the fleet without a word of their workers."""
        if self.fleet.predicted:
            predicted, self.fleet.predicted = self.fleet.predicted, []
            self._links.tell_combiner(Predicted(tuple(predicted)))
        if self.fleet.released:
            released, self.fleet.released = self.fleet.released, []
            for arena, start, stop in released:
                self.arenas[arena].slots.free(start, stop)
                if self.arenas[arena].room.requests:
                    self._serve_waiting(arena)

    # -- from the workers and the combiner ----------------------------------------------------

    def _hear(self) -> None:
        for message in self._links.receive():
            match message:
                case Combined():
                    for ended in message.ended:
                        self._settle(ended.arena, ended)
                case Unsure():
                    for deferred in message.deferred:
                        self._defer(deferred)
                case CombinerHello():
                    self._combiner_hello(message)
                case (device, said):
                    self._hear_worker(device, said)
                case _:
                    assert_never(message)
        self._pass_on()

    def _hear_worker(self, device: str, said: Hello | Ready) -> None:
        if said.epoch != self._epoch:
            if isinstance(said, Hello):
                self._links.reset_worker(device)
            return
        if isinstance(said, Ready):
            self.fleet.ready(device, said, time.monotonic())
        else:
            self.fleet.hello(device, said)
            self._open_if_idle()
        self._dispatch_soon()

    def _combiner_hello(self, message: CombinerHello) -> None:
        if message.epoch != self._epoch:
            self._links.tell_combiner(Reset(self._epoch))
            return
        self._combiner_idle = True
        self._open_if_idle()
        self._settle_forgotten()

    def _settle_forgotten(self) -> None:
        """Settle rows that have ended in the arena, though nobody said so, or nobody could hear."""
        for index, arena in enumerate(self.arenas):
            for ended in arena.unsettled_ends():
                self._settle(index, ended)

    def _settle(self, arena: int, ended: Ended) -> None:
        """Settle rows; if that fails, nobody else's may wait for it, and it is tried again."""
        try:
            self._try_to_settle(arena, ended)
        except Exception:
            _log.exception("rows %d to %d could not be settled", ended.start, ended.stop)
            self._loop.call_later(_AGAIN_S, self._settle_forgotten)

    def _try_to_settle(self, index: int, ended: Ended) -> None:
        arena = self.arenas[index]
        for request, (start, stop), complete in arena.settle(ended):
            # Whoever was not waited for must not find another row in its slot.
            if not complete and arena.are_awaited(start, stop):
                self._dispatcher.enqueue_fresh()
                saved = self._withdraw(index, start, stop)
                request.saved += saved if ended.certain else 0
            if complete or not self.fleet.hold(index, start, stop):
                arena.slots.free(start, stop)
            else:
                self._dispatcher.want_ready()
            if request.settled == request.rows:
                self._finish(request)
                continue
            if request.error is not None:
                self.close(request, request.error)
            if request.is_over:
                self._finish(request)
        if arena.room.requests:
            self._serve_waiting(index)

    def _defer(self, deferred: Deferred) -> None:
        """Let rows wait for the next stage of their cascade."""
        arena = deferred.arena
        available = self.fleet.available(arena, _EVERYBODY)
        for request, span, mask in self.arenas[arena].defer(deferred, available):
            if mask:
                self._dispatcher.add(request, mask, span)
                self._dispatch_soon()
            else:
                self._links.tell_combiner(Predicted((Predictions(arena, *span),)))

    def _tick(self) -> None:
        """Beat; look after what may have been missed, and devices that have overrun."""
        self._board.beat()
        self._loop.call_later(_TICK_S, self._tick)
        self._dispatch_soon()

    # -- what the supervisor says -------------------------------------------------------------

    def worker_started(self, device: str, incarnation: int) -> None:
        """A worker is being started."""
        self._links.started(device, incarnation)
        self.fleet.started(device, incarnation)

    def worker_reaped(self, device: str, incarnation: int, executing: int) -> None:
        """A worker is dead and was waited for; `executing` is the job it was running, or 0."""
        if self._unheard.get(device) == incarnation:
            del self._unheard[device]
        if self.fleet.workers[device].incarnation == incarnation:
            self._links.forget(device)
            for job in self.fleet.reaped(device, executing):
                if self._traces is not None:
                    self._traces.lost(job)
            self._pass_on()
        self._open_if_idle()
        self._dispatch_soon()

    def worker_down(self, device: str) -> None:
        """A worker keeps dying at its start: what waits for it alone fails, fresh rows too."""
        self._dispatcher.enqueue_fresh()
        self.fleet.give_up(device)
        self._pass_on()

    def _open_if_idle(self) -> None:
        """Open once nobody can hold a row of a former front-end any more."""
        if self._opened.is_set() or not self._combiner_idle:
            return
        if all(self.fleet.workers[name].state.up for name in self._unheard):
            for arena in self.arenas:
                arena.reset()
            self._opened.set()
