"""Whether a request can be taken, and on which terms its rows are answered.

Runs in the front-end; pure. What can't be answered in time is refused at once, not when its time
is up: so what is accepted is mostly answered, and refusals are quick, however many come.
"""

from __future__ import annotations

import asyncio

from server.errors import InvalidRequest, QueueFull, Unavailable
from server.gateway.accepted import Answer, Bound, Extras, Request, ServedModel
from server.gateway.cascade import advance, stage_terms
from server.gateway.flows import Flow
from server.gateway.forecast import Prospect
from workers.terms import Terms

__all__ = ["admit", "check_time"]

#: Of the time that a request has, this part may be forecast to be needed: a forecast can be wrong,
#: and a queue that is a little shorter than it could be keeps the devices as busy.
_PART = 0.75
#: A deadline that has passed already.
_NO_TIME_S = 1e-9


def admit(
    model: ServedModel,
    bound: Bound,
    available: int,
    *,
    flow: Flow,
    arrived: float,
    future: asyncio.Future[Answer],
    now: float,
) -> Request:
    """Make a request of what a client wants of a model.

    Args:
        model: what to predict with.
        bound: the rows, and what is wanted of them.
        available: mask of the members that are up.
        flow: with whom it takes its turns.
        arrived: when it was there, seconds: its deadline counts from then.
        future: gives the answer.
        now: seconds on the monotonic clock.

    Raises:
        InvalidRequest: if more members should answer than are asked.
        Unavailable: if so few are up that the quorum is impossible.
    """
    spec, wish = model.spec, bound.wish
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
    return Request(
        model=model,
        inputs=bound.inputs,
        rows=bound.rows,
        asked=asked,
        expected=expected,
        quorum=quorum,
        future=future,
        accepted=now,
        terms=terms,
        flow=flow,
        left_s=_left_s(model, bound, now - arrived),
        extras=Extras(spec, wish, bound.rows) if wish.has_extras else None,
    )


def _left_s(model: ServedModel, bound: Bound, spent_s: float) -> float:
    """How long a request may still take, 0 for ever: its own deadline and the model's count."""
    deadlines = [seconds for seconds in (bound.wish.timeout_s, model.deadline_s) if seconds]
    return max(min(deadlines) - spent_s, _NO_TIME_S) if deadlines else 0.0


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
