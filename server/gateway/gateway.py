"""The gateway: takes requests, sees them through the arena, gives each its one terminal answer.

Runs in the front-end's event loop, under every protocol; it knows none of them. Requests come in
through `submit` and are kept in the `Ledger`; rows go out to the workers through the `Fleet` and
come back from the combiner as `Combined`. Between the two stands the arena (see `workers.arena` for
the life of a slot). Here is who talks with whom, and when the doors are open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from server.errors import RequestError, Unavailable
from server.front_end_spec import QueueLimits
from server.gateway.accepted import Bound, Request, ServedModel
from server.gateway.dispatching import Dispatching
from server.gateway.fleet import Fleet
from server.gateway.inflight import InFlight
from server.gateway.ledger import Ledger
from server.gateway.links import Links
from server.gateway.waiting_room import WaitingRoom
from workers.arena import Arena
from workers.memory import BoardRow, SharedMemory
from workers.messages import (
    Combined,
    CombinerHello,
    Predicted,
    Predictions,
    Reset,
    ToCombiner,
    Unsure,
)
from workers.spec import InstanceSpec, MemorySpec

if TYPE_CHECKING:
    from server.gateway.tracing import RequestTrace, Tracer

__all__ = ["Gateway"]

_TICK_S = 0.05
_SHORT_S = 0.001


class Gateway:
    """The front-end's heart. Open the doors with `start`.

    Args:
        memory: the shared memory.
        sockets: the private socket directory.
        epoch: this front-end's; grows with every one.
        instances: what each device's worker holds.
        workers: the workers that may hold work of a former front-end, as (device, incarnation):
            nothing is claimed until each has said that it is idle, or was reaped.
        starting: devices of those that hold nothing yet, and are not waited for.
        limits: how much may wait.
        loop: the event loop in which all of this happens.
        tracer: begins the traces of requests, if there is tracing.

    Attributes:
        flights: what is in each arena.
        fleet: the workers, and the rows that wait for them.
        draining: whether no more requests are accepted.
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
        loop: asyncio.AbstractEventLoop,
        tracer: Tracer | None = None,
    ) -> None:
        self._epoch = epoch
        self._loop = loop
        self._unheard = {name: number for name, number in workers if name not in starting}
        self._combiner_idle = False
        self._opened = asyncio.Event()
        self.draining = False
        shared = SharedMemory(memory)
        self._board: BoardRow = shared.board("front-end")
        arenas = [Arena(shared, spec) for spec in memory.arenas]
        self.flights = [
            InFlight(arena, WaitingRoom(limits.waiting_requests, limits.waiting_rows))
            for arena in arenas
        ]
        self._links = Links(memory=shared, sockets=sockets, epoch=epoch)
        self.fleet = Fleet(
            links=self._links,
            epoch=epoch,
            arenas=arenas,
            instances=instances,
            wake_combiner=self._wake_combiner,
            release=self._release,
            traces=None if tracer is None else tracer.of_jobs(self.flights),
        )
        for name, incarnation in workers:
            self.fleet.started(name, incarnation)
        self._dispatching = Dispatching(
            self.fleet, self.flights, call_soon=loop.call_soon, hear=self._hear
        )
        self._ledger = Ledger(
            self.fleet,
            self.flights,
            self._dispatching,
            limits=limits,
            loop=loop,
            tell_combiner=self._tell_combiner,
        )

    def start(self) -> None:
        """Listen to the others and ask everybody to be idle."""
        self._links.start(self._loop, self._hear)
        self._tell_combiner(Reset(self._epoch))
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
        return self._ledger.requests

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
        request = self._ledger.accept(model, bound, arrived=arrived, on_slow=on_slow)
        if trace is not None:
            trace.accepted, request.trace = request.accepted, trace
        return request

    def close(self, request: Request, reason: RequestError) -> None:
        """Stop waiting for a request: its rows are answered if the quorum is there, else fail."""
        self._ledger.close(request, reason)

    async def drain(self) -> None:
        """Refuse new requests and wait until those in flight are answered."""
        self.draining = True
        while requests := self.requests:
            await asyncio.wait([request.future for request in requests])
            await asyncio.sleep(_SHORT_S)  # rows of calls that were cancelled end a little later

    # -- events -------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Take in what workers and combiner have said."""
        for message in self._links.receive():
            match message:
                case Combined():
                    for ended in message.ended:
                        self._ledger.settle(ended.arena, ended)
                case Unsure():
                    for deferred in message.deferred:
                        self._ledger.defer(deferred)
                case CombinerHello():
                    self._on_combiner_hello(message)
                case (device, said):
                    self.fleet.hear(device, said)
                    self._open_if_idle()
                    self._dispatching.soon()

    def _on_combiner_hello(self, message: CombinerHello) -> None:
        if message.epoch != self._epoch:
            self._tell_combiner(Reset(self._epoch))
            return
        self._combiner_idle = True
        self._open_if_idle()
        self._ledger.settle_forgotten()

    def _tell_combiner(self, message: ToCombiner) -> None:
        self._links.tell_combiner(message)

    def _wake_combiner(self, ranges: tuple[Predictions, ...]) -> None:
        self._tell_combiner(Predicted(ranges))

    def _release(self, arena: int, start: int, stop: int) -> None:
        self._ledger.release(arena, start, stop)

    def _tick(self) -> None:
        """Beat; look after requests that take long, and devices that have overrun."""
        self._board.beat()
        self._loop.call_later(_TICK_S, self._tick)
        self._ledger.tell_slow(time.monotonic() - _TICK_S)
        self._dispatching.soon()

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
            for flight in self.flights:
                flight.reset()
            self._opened.set()
