"""Admission: whether a request is accepted, and on which terms its rows are answered.

Runs in the front-end. Deadline-aware: what can't be answered in time is refused at once, not when
its time is up, so what is accepted is mostly answered, and refusals are quick, however many
requests arrive.
"""

from __future__ import annotations

from collections.abc import Mapping

from allocator.dispatch.flows import Flow, Flows
from server.engine.arena_requests import ArenaRequests
from server.engine.cascade import advance, stage_terms
from server.engine.fleet import Fleet
from server.engine.forecast import Forecast, Prospect, learn
from server.engine.memory_budget import MemoryBudget
from server.engine.request import Admission, PreparedRequest, Request
from server.engine.spec import QueueLimits
from server.errors import InvalidRequest, QueueFull, Unavailable
from workers.runtime.arena import Terms

__all__ = ["AdmissionControl", "admit", "check_time", "time_left_s"]

#: The share of a request's time that it may be forecast to need: a forecast can be wrong, and a
#: queue that is a little shorter than it could be keeps the devices as busy.
_USABLE_SHARE = 0.75
#: A deadline that has passed already.
_NO_TIME_S = 1e-9


class AdmissionControl:
    """Admits requests, or refuses them."""

    def __init__(
        self, fleet: Fleet, arenas: Mapping[int, ArenaRequests], limits: QueueLimits
    ) -> None:
        self._fleet = fleet
        self._arenas = arenas
        self._max_wait_s = limits.queue_s
        self._flows = Flows()
        self._forecast = Forecast(fleet.members)
        self._answers = MemoryBudget(limits.answer_bytes)
        #: By arena, whether rows are pending for its members, where that is known.
        self._has_pending: dict[int, bool] = {}

    def admit(self, prepared: PreparedRequest) -> Admission:
        """Find and keep the terms on which such requests are accepted now, see `admit`."""
        model = prepared.model
        prepared.admission = admission = admit(
            prepared,
            self._fleet.available(model.arena, model.spec.mask),
            self._flows.get(model.name, prepared.options.priority),
            self._fleet.version,
        )
        return admission

    def renew(self) -> None:
        """The arenas, which are passed to the constructor, are not those of before."""
        specs = [requests.arena.spec for requests in self._arenas.values()]
        self._flows.keep({ensemble.name for spec in specs for ensemble in spec.ensembles})
        self._forecast.renew()
        self._has_pending.clear()

    def check_memory(self, nbytes: int) -> None:
        """Raise `QueueFull` if so large an answer doesn't fit beside the others; alone any does."""
        if self._answers.held_bytes:
            self._answers.check(nbytes)

    def reserve_memory(self, request: Request, nbytes: int) -> None:
        """Count the memory of a request's answer, until the request is over."""
        request.held_bytes = nbytes
        self._answers.charge(nbytes)

    def has_pending(self, arena: int) -> bool:
        """Whether rows are pending for a member of an arena: looked up once in a turn."""
        known = self._has_pending.get(arena)
        if known is None:
            known = self._has_pending[arena] = self._forecast.has_pending(arena)
        return known

    def forget_pending(self) -> None:
        """What is pending has changed."""
        self._has_pending.clear()

    def check_time(self, request: Request) -> None:
        """Raise `QueueFull` if a request that has others before it can't be answered in time."""
        needed = request.expected.bit_count()
        if request.left_s:
            needed = min(needed, request.admission.quorum)
        queued_rows = self._arenas[request.model.arena].queue.rows(request.flow)
        prospect = self._forecast.prospect(request, needed, queued_rows)
        check_time(request, prospect, self._max_wait_s)

    def note_accepted(self, request: Request) -> None:
        """A request that was checked for time was accepted: it is before all later ones."""
        self._forecast.accept(request)

    def note_end(self, request: Request, now: float) -> None:
        """A request is over: free its answer's memory, and learn from how long it took."""
        if request.held_bytes:
            self._answers.release(request.held_bytes)
            request.held_bytes = 0
        if request.forecast_s:
            learn(request, now)


def admit(
    prepared: PreparedRequest, available: int, flow: Flow, fleet_version: int = 0
) -> Admission:
    """Find the terms on which requests can be accepted now.

    Raises `InvalidRequest` if the quorum is larger than the number of requested members,
    `Unavailable` if so few are available that the quorum is impossible.
    """
    model, options = prepared.model, prepared.options
    spec = model.spec
    requested = spec.mask & options.members
    number = requested.bit_count()
    quorum = options.quorum or min(spec.quorum, number)
    if quorum > number:
        raise InvalidRequest(f"a quorum of {quorum} can't be met by {number} members")
    expected = requested & available
    if expected.bit_count() < quorum:
        raise Unavailable(
            f"{model.public.name!r} can't meet its quorum of {quorum}: "
            f"only {expected.bit_count()} of its members are up"
        )
    if spec.stages and not options.needs_all_members:
        stage, expected = advance(spec.stages, 0, available)
        terms = stage_terms(quorum, spec.stages, stage, outputs=bool(options.outputs))
    else:
        terms = Terms(quorum, options.scores, options.class_only, outputs=bool(options.outputs))
    return Admission(fleet_version, requested, expected, quorum, terms, terms.pack(), flow)


def time_left_s(prepared: PreparedRequest, spent_s: float, within_s: float = 0.0) -> float:
    """How long a request may still take, 0 for no limit; never 0 if its time is up.

    `within_s` is its own limit from its arrival beside that of `prepared`, 0 for none.
    """
    limit_s = min([limit for limit in (prepared.limit_s, within_s) if limit], default=0.0)
    return max(limit_s - spent_s, _NO_TIME_S) if limit_s else 0.0


def check_time(request: Request, prospect: Prospect, max_wait_s: float) -> None:
    """Raise `QueueFull` if a request that has others before it can't be answered in time."""
    if request.left_s and prospect.total_s > _USABLE_SHARE * request.left_s:
        raise QueueFull(
            f"the deadline is in {request.left_s:.3f} s, but with what waits before it, "
            f"the answer would take {prospect.total_s:.3f} s",
            prospect.total_s - _USABLE_SHARE * request.left_s,
            "deadline",
        )
    if prospect.wait_s > max_wait_s:
        raise QueueFull(
            f"what waits for {request.model.public.name!r} would take {prospect.wait_s:.1f} s",
            prospect.wait_s - max_wait_s,
            "time",
        )
