"""The engine: accepts requests, moves their rows through the arenas, delivers one outcome each.

Runs in the front-end's event loop, under every protocol; it knows none of them. Calls go one way::

    protocols --submit, close--> Engine --> AdmissionControl (terms, forecast, memory)
        ^                          |  +---> RowPipeline --> ArenaRequests (slots, inputs, answers)
        |                          |             +--------> Fleet (pending rows) --> policy.bind
        +----on_done(outcome)------+  +---> Links (messages to workers and combiner)

Rows go into the arena when they are submitted, and to workers in the next turn of the event loop,
together with all others that have come by then. What the combiner has ended in one turn is
answered in one. See `workers.runtime.arena` for the life of a slot. Deployments come and go while
others are served: each has arenas and instances of its own, whose numbers never repeat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, assert_never

from server.engine.admission import AdmissionControl, time_left_s
from server.engine.admission_queue import AdmissionQueue
from server.engine.arena_requests import ArenaRequests
from server.engine.fleet import Fleet
from server.engine.links import Links
from server.engine.memory_budget import COUNTED_BYTES
from server.engine.pipeline import RowPipeline
from server.engine.request import (
    Extras,
    Outcome,
    PreparedRequest,
    Request,
    StoredInput,
    TraceHandle,
)
from server.engine.spec import QueueLimits, ServedModel
from server.errors import DeadlineExceeded, RequestError, Unavailable
from workers.runtime.arena import Arena
from workers.runtime.memory import BoardRow, SharedMemory
from workers.runtime.messages import Combined, CombinerHello, Hello, Ready, Reset, Unsure
from workers.runtime.queues import max_job_rows
from workers.runtime.spec import GenerationSpec, InstanceSpec

if TYPE_CHECKING:
    from server.engine.tracing import Tracer

__all__ = ["Engine"]

_TICK_S = 0.05
#: So long after a request's deadline, it is answered without the combiner: that may hang.
_GRACE_S = 1.0


class Engine:
    """The heart of the front-end. Open it with `start`; it runs in the event loop `loop`.

    `workers` may hold work of a former front-end, as (device, incarnation): no slot is claimed
    until each has reported that it is idle, or was reaped. Devices in `starting` hold nothing yet,
    and are not waited for. `epoch` grows with every front-end.
    """

    def __init__(
        self,
        *,
        memory: SharedMemory,
        links: Links,
        epoch: int,
        generation: GenerationSpec,
        instances: Mapping[str, Sequence[InstanceSpec]],
        workers: Sequence[tuple[str, int]],
        starting: Sequence[str] = (),
        limits: QueueLimits,
        loop: asyncio.AbstractEventLoop,
        tracer: Tracer | None = None,
    ) -> None:
        self._links = links
        self._epoch = epoch
        self._loop = loop
        self._unheard = {name: number for name, number in workers if name not in starting}
        self._is_combiner_idle = False
        self._opened = asyncio.Event()
        self.draining = False
        self._memory = memory
        self._limits = limits
        #: Called whenever other members are available than before.
        self.on_available: Callable[[], None] = lambda: None
        self._board: BoardRow = memory.board("front-end")
        self.arenas: dict[int, ArenaRequests] = {}
        self.fleet = Fleet(
            arenas=self._map(generation),
            instances=instances,
            most_rows=max_job_rows(memory.spec.queues.ring_bytes),
        )
        self._traces = None if tracer is None else tracer.of_jobs(self.arenas)
        for name, incarnation in workers:
            self.worker_started(name, incarnation)
        self._admission = AdmissionControl(self.fleet, self.arenas, limits)
        self._pipeline = RowPipeline(
            fleet=self.fleet,
            arenas=self.arenas,
            links=links,
            admission=self._admission,
            epoch=epoch,
            loop=loop,
            receive=self._receive,
            traces=self._traces,
        )

    def start(self) -> None:
        """Begin to listen, and ask workers and combiner to become idle."""
        self._links.start(self._loop, self._receive)
        self._links.send_to_combiner(Reset(self._epoch))
        self._tick()

    # -- deployments --------------------------------------------------------------------------

    def _map(self, generation: GenerationSpec) -> dict[int, Arena]:
        mapping = self._memory.map(generation)
        arenas = {spec.index: Arena(mapping, spec) for spec in generation.arenas}
        for index, arena in arenas.items():
            queue = AdmissionQueue(self._limits.waiting_requests, self._limits.waiting_rows)
            self.arenas[index] = ArenaRequests(arena, queue)
        return arenas

    def add(
        self, generation: GenerationSpec, instances: Mapping[str, Sequence[InstanceSpec]]
    ) -> None:
        """Accept requests to the models of one more deployment, whose arenas are untouched.

        Raises `OSError` if its memory can't be mapped.
        """
        self.fleet.add(self._map(generation), instances)
        self._admission.renew()
        self._pipeline.dispatch_soon()

    def remove(self, generation: GenerationSpec) -> None:
        """Drop a deployment that has no requests, and gets none; its memory is unmapped."""
        arenas = [spec.index for spec in generation.arenas]
        self.fleet.remove(arenas)
        for index in arenas:
            del self.arenas[index]
        self._admission.renew()

    def is_idle(self, generation: GenerationSpec) -> bool:
        """Whether a deployment has no requests, no claimed slots and no open jobs."""
        return self._pipeline.is_idle({spec.index for spec in generation.arenas})

    def is_ready(self, generation: GenerationSpec) -> bool:
        """Whether all workers that are not down have told of a deployment's instances."""
        return self.fleet.has_heard({spec.index for spec in generation.arenas})

    def hold(
        self, generation: GenerationSpec, models: Collection[str], members: Collection[str]
    ) -> set[Request]:
        """Have requests to a deployment that are accepted from now on do without some members.

        Returns the accepted ones that may need these, or are to some models.
        """
        arenas = {spec.index: spec for spec in generation.arenas}
        self.fleet.do_without(dict.fromkeys(arenas, members))
        return {
            request
            for request in self.requests
            if (model := request.prepared.model).arena in arenas
            and (
                model.name in models
                or any(arenas[model.arena].members[one] in members for one in model.spec.members)
            )
        }

    def attach_worker(self, device: str, slot: int) -> None:
        """A new device's worker is going to be started, with a spare slot of the queues."""
        self._memory.attach(device, slot)
        self._links.attach(device, slot)
        self.fleet.attach(device)

    def detach_worker(self, device: str) -> None:
        """A device that no deployment has instances on is gone; its worker was reaped."""
        self.fleet.detach(device)
        self._links.detach(device)
        self._memory.detach(device)

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
        """Those that were accepted and are not over yet."""
        return self._pipeline.requests

    def can_answer(self, model: ServedModel) -> bool:
        """Whether enough of the model's members are available to meet its quorum."""
        served = self.fleet.served(model.arena) & model.spec.mask
        return served.bit_count() >= model.spec.quorum

    def is_idle_for(self, model: ServedModel) -> bool:
        """Whether nothing waits where a new request to a model would go."""
        waiting = self.arenas[model.arena].queue.requests
        return not (waiting or self._admission.has_pending(model.arena))

    def check_open(self) -> None:
        """Raise `Unavailable` while starting or draining."""
        if self.draining:
            raise Unavailable("the server is draining", "draining")
        if not self._opened.is_set():
            raise Unavailable("the server is starting up", "starting")

    def submit(
        self,
        prepared: PreparedRequest,
        inputs: list[StoredInput],
        rows: int,
        on_done: Callable[[Outcome], None],
        *,
        arrived: float,
        within_s: float = 0.0,
        trace: TraceHandle | None = None,
    ) -> Request:
        """Accept a request of at least 1 row; its inputs may not change any more.

        `on_done` is called once with the answer or the error, in a later turn of the event loop.
        The deadline counts from `arrived`, on the monotonic clock, so that the time to decode
        counts as well; `within_s` is a limit from then beside that of `prepared`, 0 for none.

        Raises:
            InvalidRequest: if the quorum is larger than the number of requested members.
            Unavailable: while starting or draining, or if the quorum is impossible.
            QueueFull: if too many requests or rows wait already, if their answers hold too much
                memory, or if it can't be answered in time.
        """
        self.check_open()
        admission = prepared.admission
        if admission is None or admission.fleet_version != self.fleet.version:
            admission = self._admission.admit(prepared)
        nbytes = rows * prepared.row_bytes
        if nbytes >= COUNTED_BYTES:
            self._admission.check_memory(nbytes)
        now = time.monotonic()
        request = Request(prepared, admission, inputs, rows, on_done, now)
        if prepared.limit_s or within_s:
            request.left_s = time_left_s(prepared, now - arrived, within_s)
        if prepared.has_extras:
            request.extras = Extras(prepared.model.spec, prepared.options, rows, prepared.sizes)
        arena = prepared.model.arena
        has_others_before = self.arenas[arena].queue.requests or self._admission.has_pending(arena)
        if has_others_before:
            self._admission.check_time(request)
        self._pipeline.add(request)
        if nbytes >= COUNTED_BYTES:
            self._admission.reserve_memory(request, nbytes)
        if has_others_before:
            self._admission.note_accepted(request)
        if request.left_s:
            request.timer = self._loop.call_later(request.left_s, self._pass_deadline, request)
        if trace is not None:
            trace.accepted, request.trace = now, trace
        return request

    def close(self, request: Request, reason: RequestError) -> None:
        """Stop waiting for a request: its rows are answered if the quorum is there, else fail."""
        self._pipeline.close(request, reason)

    async def drain(self) -> None:
        """Refuse new requests and wait until those in flight are over."""
        self.draining = True
        await self._pipeline.wait_empty()

    def _pass_deadline(self, request: Request) -> None:
        self.close(
            request, DeadlineExceeded("the deadline has passed before a quorum had answered")
        )
        if request in self.requests:
            request.timer = self._loop.call_later(_GRACE_S, request.abandon)

    # -- reports of the workers and the combiner ----------------------------------------------

    def _receive(self) -> None:
        for message in self._links.receive():
            match message:
                case Combined():
                    for ended in message.ended:
                        self._pipeline.end(ended.arena, ended)
                case Unsure():
                    for deferred in message.deferred:
                        self._pipeline.defer(deferred)
                case CombinerHello():
                    self._on_combiner_hello(message)
                case (device, report):
                    self._on_worker_report(device, report)
                case _:
                    assert_never(message)
        self._pipeline.pass_on()

    def _on_worker_report(self, device: str, report: Hello | Ready) -> None:
        if report.epoch != self._epoch:
            if isinstance(report, Hello):
                self._links.reset_worker(device)
            return
        if isinstance(report, Ready):
            self.fleet.ready(device, report, time.monotonic())
        else:
            version = self.fleet.version
            self.fleet.hello(device, report)
            if self.fleet.version != version:
                self.on_available()
            self._open_if_idle()
        self._pipeline.dispatch_soon()

    def _on_combiner_hello(self, message: CombinerHello) -> None:
        if message.epoch != self._epoch:
            self._links.send_to_combiner(Reset(self._epoch))
            return
        self._is_combiner_idle = True
        self._open_if_idle()
        self._pipeline.end_unreported()

    def _tick(self) -> None:
        """Beat; look for reports that may have been missed, and for devices that are late."""
        self._board.beat()
        self._loop.call_later(_TICK_S, self._tick)
        self._pipeline.dispatch_soon()

    # -- reports of the supervisor ------------------------------------------------------------

    def worker_started(self, device: str, incarnation: int) -> None:
        """A worker is being started."""
        self._links.started(device, incarnation)
        self.fleet.started(device, incarnation)

    def worker_reaped(self, device: str, incarnation: int, executing: int) -> None:
        """A worker is dead and reaped; `executing` is the job that it was running, or 0."""
        if self._unheard.get(device) == incarnation:
            del self._unheard[device]
        if self.fleet.workers[device].incarnation == incarnation:
            self._links.forget(device)
            for job in self.fleet.reaped(device, executing):
                if self._traces is not None:
                    self._traces.lost(job)
            self._pipeline.pass_on()
        self._open_if_idle()
        self._pipeline.dispatch_soon()

    def worker_down(self, device: str) -> None:
        """A worker keeps dying at its start: rows that wait for it alone fail, new ones too."""
        self._pipeline.enqueue_fresh()
        self.fleet.give_up(device)
        self.on_available()
        self._pipeline.pass_on()

    def _open_if_idle(self) -> None:
        """Open once no process can hold a row of a former front-end any more."""
        if self._opened.is_set() or not self._is_combiner_idle:
            return
        if all(self.fleet.workers[name].state.up for name in self._unheard):
            for arena in self.arenas.values():
                arena.reset()
            self._opened.set()
