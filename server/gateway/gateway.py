"""The gateway: accepts requests, sees them through the arena, gives each its one terminal answer.

Runs in the front-end's event loop, under every protocol; it knows none of them. Requests come in
through `submit`; rows go out to the workers through the `Fleet` and come back from the combiner as
`Combined`. Between the two stands the arena (see `workers.arena` for the life of a slot).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import zmq

from server.errors import DeadlineExceeded, RequestError, Unavailable
from server.front_end_spec import QueueLimits
from server.gateway.accepted import Bound, Request, ServedModel, answer_bytes
from server.gateway.admission import admit, check_time
from server.gateway.body_budget import COUNTED_BYTES, BodyBudget
from server.gateway.dispatching import Dispatching
from server.gateway.fleet import Fleet
from server.gateway.flows import Flow, Flows
from server.gateway.forecast import Forecast, learn
from server.gateway.inflight import InFlight
from server.gateway.waiting_room import WaitingRoom
from workers.arena import Arena
from workers.channels import (
    COMBINER,
    FRONT_END,
    Decoder,
    descriptor,
    drain,
    open_socket,
)
from workers.memory import BoardRow, SharedMemory
from workers.messages import (
    Close,
    Combined,
    CombinerHello,
    Deferred,
    Ended,
    Predicted,
    Predictions,
    Reset,
    Unsure,
    encode,
)
from workers.spec import InstanceSpec, MemorySpec

if TYPE_CHECKING:
    from server.gateway.tracing import RequestTrace, Tracer

__all__ = ["Gateway"]

_log = logging.getLogger(__name__)

_TICK_S = 0.05
_SHORT_S = 0.001
#: So long after a request's deadline, it is answered without the combiner: that may hang.
_GRACE_S = 1.0
#: After what should not fail did, it is tried again that much later.
_AGAIN_S = 1.0
_MESSAGES_AT_ONCE = 64
_EVERYBODY = (1 << 64) - 1


class Gateway:
    """The front-end's heart. Open the doors with `start`, from within the running event loop.

    Args:
        memory: the shared memory.
        sockets: the private socket directory.
        epoch: this front-end's; grows with every one.
        instances: what each device's worker holds.
        workers: the workers that may hold work of a former front-end, as (device, incarnation):
            nothing is claimed until each has said that it is idle, or was reaped.
        starting: devices of those that hold nothing yet, and are not waited for.
        limits: how much may wait.
        tracer: begins the traces of requests, if there is tracing.
    """

    def __init__(
        self,
        *,
        memory: MemorySpec,
        sockets: str,
        epoch: int,
        instances: dict[str, tuple[InstanceSpec, ...]],
        workers: Sequence[tuple[str, int]],
        starting: Sequence[str] = (),
        limits: QueueLimits,
        tracer: Tracer | None = None,
    ) -> None:
        self._epoch = epoch
        self._limits = limits
        self._flows = Flows()
        shared = SharedMemory(memory)
        self._board: BoardRow = shared.board("front-end")
        arenas = [Arena(shared, spec) for spec in memory.arenas]
        self._flights = [
            InFlight(arena, WaitingRoom(limits.waiting_requests, limits.waiting_rows))
            for arena in arenas
        ]
        self._requests: set[Request] = set()
        self._answers = BodyBudget(limits.answer_bytes)
        self.draining = False
        self._combiner_idle = False
        self._unheard = {name: number for name, number in workers if name not in starting}
        self._inbox = open_socket(zmq.PULL, sockets, FRONT_END, bind=True)
        self._combiner = open_socket(zmq.PUSH, sockets, COMBINER, bind=False)
        self._decoder: Decoder[Combined | CombinerHello | Unsure] = Decoder(
            Combined | CombinerHello | Unsure
        )
        self.fleet = Fleet(
            sockets=sockets,
            epoch=epoch,
            arenas=arenas,
            instances=instances,
            wake_combiner=self._wake_combiner,
            release=self._release,
            traces=None if tracer is None else tracer.of_jobs(self._flights),
        )
        self._forecast = Forecast(self.fleet.members)
        for name, incarnation in workers:
            self.fleet.started(name, incarnation)
        self._opened = asyncio.Event()
        self._dispatching = Dispatching(
            self.fleet,
            self._flights,
            call_soon=self._call_soon,
            on_sent=self._hear_workers,
        )

    def start(self) -> None:
        """Listen to the sockets and ask everybody to be idle."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor(self._inbox), self._hear_combiner)
        self._loop.add_reader(descriptor(self.fleet.router), self._hear_workers)
        self._combiner.send(encode(Reset(self._epoch)))
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
        """Those that were accepted and have no answer yet."""
        return self._requests

    @property
    def flights(self) -> Sequence[InFlight]:
        """What is in each arena."""
        return self._flights

    def can_answer(self, model: ServedModel) -> bool:
        """Whether enough of the model's members live to meet its quorum."""
        available = self.fleet.available(model.arena, model.spec.mask)
        return available.bit_count() >= model.spec.quorum

    def submit(
        self,
        model: ServedModel,
        bound: Bound,
        *,
        arrived: float,
        on_slow: Callable[[Request], None] | None = None,
        trace: RequestTrace | None = None,
    ) -> Request:
        """Accept a request; its `future` gives the answer.

        Args:
            model: what to predict with.
            bound: the rows, and what is wanted of them.
            arrived: when the request was there, on the monotonic clock: its deadline counts from
                then, so that what it took to decode it counts as well.
            on_slow: called once with the request if its answer takes some ten milliseconds.
            trace: of the request, if it is traced.

        Raises:
            InvalidRequest: if more members should answer than are asked.
            Unavailable: while starting or draining, or if the quorum is impossible.
            QueueFull: if too many requests or rows wait already, if their answers hold too much, or
                if it can't be done in time.
        """
        if not self.is_open:
            if self.draining:
                raise Unavailable("the server is draining", "draining")
            raise Unavailable("starting up", "starting")
        nbytes = answer_bytes(model.spec, bound)
        if nbytes >= COUNTED_BYTES and self._answers.held_bytes:
            self._answers.check(nbytes)
        request = admit(
            model,
            bound,
            self.fleet.available(model.arena, model.spec.mask),
            flow=self._flows.of(model.arena, model.ensemble, bound.wish.level),
            arrived=arrived,
            future=self._loop.create_future(),
            now=time.monotonic(),
        )
        request.on_slow = on_slow
        if trace is not None:
            trace.accepted, request.trace = request.accepted, trace
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
        check_time(request, prospect, self._limits.queue_s)

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
            self.fleet.withdraw(model.arena, start, stop)
            self._combiner.send(encode(Close(model.arena, start, stop)))
        if request.is_over:
            self._finish(request)

    async def drain(self) -> None:
        """Refuse new requests and wait until those in flight are answered."""
        self.draining = True
        while self._requests:
            await asyncio.wait([request.future for request in self._requests])
            await asyncio.sleep(_SHORT_S)  # rows of calls that were cancelled end a little later

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

    def _settle(self, index: int, ended: Ended) -> None:
        flight = self._flights[index]
        for request, (start, stop), complete in flight.settle(ended):
            # Whoever was not waited for must not find another row in its slot.
            if not complete and flight.are_awaited(start, stop):
                self._dispatching.enqueue_fresh()
                saved = self.fleet.withdraw(index, start, stop)
                request.saved += saved if ended.certain else 0
            if complete or not self.fleet.hold(index, start, stop):
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

    def _release(self, arena: int, start: int, stop: int) -> None:
        """Free rows that had ended while a job still held them."""
        flight = self._flights[arena]
        flight.slots.free(start, stop)
        if flight.room.requests:
            self._serve_waiting(flight)

    def _defer(self, deferred: Deferred) -> None:
        """Let rows wait for the next stage of their cascade."""
        arena = deferred.arena
        available = self.fleet.available(arena, _EVERYBODY)
        for request, span, mask in self._flights[arena].defer(deferred, available):
            if mask:
                self._dispatching.let_wait(request, mask, span)
            else:
                self._wake_combiner((Predictions(arena, *span),))

    def _on_combiner_hello(self, message: CombinerHello) -> None:
        if message.epoch != self._epoch:
            self._combiner.send(encode(Reset(self._epoch)))
            return
        self._combiner_idle = True
        self._open_if_idle()
        self._settle_forgotten()

    def _settle_forgotten(self) -> None:
        """Settle rows that have ended in the arena, though nobody said so, or nobody could hear."""
        for index, flight in enumerate(self._flights):
            for ended in flight.unsettled_ends():
                self._try_to_settle(index, ended)

    def _try_to_settle(self, index: int, ended: Ended) -> None:
        """Settle rows; if that fails, nobody else's may wait for it, and it is tried again."""
        try:
            self._settle(index, ended)
        except Exception:
            _log.exception("rows %d to %d could not be settled", ended.start, ended.stop)
            self._loop.call_later(_AGAIN_S, self._settle_forgotten)

    # -- events -------------------------------------------------------------------------------

    # A ZeroMQ descriptor signals edges, and any use of its socket may swallow one: so both
    # receive until nothing is left, and the one socket that is also sent to is looked at again
    # after every send.

    def _hear_combiner(self) -> None:
        messages = drain(self._inbox, self._decoder, _MESSAGES_AT_ONCE)
        for message in messages:
            match message:
                case Combined():
                    for ended in message.ended:
                        self._try_to_settle(ended.arena, ended)
                case Unsure():
                    for deferred in message.deferred:
                        self._defer(deferred)
                case CombinerHello():
                    self._on_combiner_hello(message)
        if len(messages) == _MESSAGES_AT_ONCE:
            self._loop.call_soon(self._hear_combiner)

    def _hear_workers(self) -> None:
        if self.fleet.receive():
            self._open_if_idle()
            self._dispatching.soon()

    def _call_soon(self, function: Callable[[], None]) -> None:
        self._loop.call_soon(function)

    def _tick(self) -> None:
        """Beat; look after requests that take long, and devices that have overrun."""
        self._board.beat()
        self._loop.call_later(_TICK_S, self._tick)
        slow = time.monotonic() - _TICK_S
        for request in self._requests:
            if request.on_slow is not None and request.accepted < slow:
                request.on_slow(request)
                request.on_slow = None
        self._dispatching.soon()

    def _wake_combiner(self, ranges: tuple[Predictions, ...]) -> None:
        self._combiner.send(encode(Predicted(ranges)))

    # -- what the supervisor says -------------------------------------------------------------

    def worker_started(self, device: str, incarnation: int) -> None:
        """A worker is being started."""
        self.fleet.started(device, incarnation)

    def worker_reaped(self, device: str, incarnation: int, executing: int) -> None:
        """A worker is dead and was waited for; `executing` is the job it was running, or 0."""
        if self._unheard.get(device) == incarnation:
            del self._unheard[device]
        self.fleet.reaped(device, incarnation, executing)
        self._open_if_idle()
        self._dispatching.soon()

    def worker_down(self, device: str) -> None:
        """A worker keeps dying at its start: what waits for it alone fails, fresh rows too."""
        self._dispatching.enqueue_fresh()
        self.fleet.gave_up(device)

    def _open_if_idle(self) -> None:
        """Open the doors once nobody can hold a row of a former front-end any more."""
        if self._opened.is_set() or not self._combiner_idle:
            return
        if all(self.fleet.workers[name].state.up for name in self._unheard):
            for flight in self._flights:
                flight.reset()
            self._opened.set()
