"""Whether a request can be taken, and on which terms its rows are answered.

Runs in the front-end; pure. What can't be answered in time is refused at once, not when its time
is up: so what is accepted is mostly answered, and refusals are quick, however many come.
"""

from __future__ import annotations

from allocator.dispatch.flows import Flow
from server.engine.cascade import advance, stage_terms
from server.engine.forecast import Prospect
from server.engine.request import Admission, Prepared, Request
from server.errors import InvalidRequest, QueueFull, Unavailable
from workers.runtime.arena import Terms

__all__ = ["admit", "check_time", "time_left_s"]

#: Of the time that a request has, this part may be forecast to be needed: a forecast can be wrong,
#: and a queue that is a little shorter than it could be keeps the devices as busy.
_PART = 0.75
#: A deadline that has passed already.
_NO_TIME_S = 1e-9


def admit(prepared: Prepared, available: int, flow: Flow, members_up: int = 0) -> Admission:
    """Find the terms on which requests can be taken now.

    Args:
        prepared: what they ask of which model.
        available: mask of the members that are up.
        flow: with whom they take their turns.
        members_up: the version of `available`.

    Raises:
        InvalidRequest: if more members should answer than are asked.
        Unavailable: if so few are up that the quorum is impossible.
    """
    model, wish = prepared.model, prepared.wish
    spec = model.spec
    asked = spec.mask & wish.members
    number = asked.bit_count()
    quorum = wish.quorum or min(spec.quorum, number)
    if quorum > number:
        raise InvalidRequest(f"a quorum of {quorum} can't be met by {number} members")
    expected = asked & available
    if expected.bit_count() < quorum:
        raise Unavailable(
            f"{model.name!r} can't meet its quorum of {quorum}: "
            f"only {expected.bit_count()} of its members are up"
        )
    if spec.stages and not wish.asks_everybody:
        stage, expected = advance(spec.stages, 0, available)
        terms = stage_terms(quorum, spec.stages, stage)
    else:
        terms = Terms(quorum, wish.scores, wish.class_only)
    return Admission(members_up, asked, expected, quorum, terms, terms.pack(), flow)


def time_left_s(prepared: Prepared, spent_s: float, within_s: float = 0.0) -> float:
    """How long a request may still take, 0 for ever; never 0 if its time is up.

    Args:
        prepared: what it asks.
        spent_s: how long it has taken since its arrival.
        within_s: its own limit from its arrival beside that of `prepared`, 0 for none.
    """
    limit_s = min([limit for limit in (prepared.limit_s, within_s) if limit], default=0.0)
    return max(limit_s - spent_s, _NO_TIME_S) if limit_s else 0.0


def check_time(request: Request, prospect: Prospect, queue_s: float) -> None:
    """Whether a request that has others before it can be answered in time.

    Args:
        request: not accepted yet.
        prospect: what it has to expect.
        queue_s: how long any request may have to wait.

    Raises:
        QueueFull: if it can't.
    """
    if request.left_s and prospect.total_s > _PART * request.left_s:
        raise QueueFull(
            f"the deadline is in {request.left_s:.3f} s, but with what waits before it, "
            f"the answer would take {prospect.total_s:.3f} s",
            prospect.total_s - _PART * request.left_s,
            "deadline",
        )
    if prospect.wait_s > queue_s:
        raise QueueFull(
            f"what waits for {request.model.name!r} would take {prospect.wait_s:.1f} s",
            prospect.wait_s - queue_s,
            "time",
        )
