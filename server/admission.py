"""Whether a request can be taken, and on which terms its rows are answered.

Runs in the front-end; pure.
"""

from __future__ import annotations

import asyncio

from server.accepted import Answer, Bound, Extras, Request, ServedModel
from server.cascade import advance, stage_terms
from server.errors import InvalidRequest, Unavailable
from workers.terms import Terms

__all__ = ["admit"]


def admit(
    model: ServedModel,
    bound: Bound,
    available: int,
    *,
    future: asyncio.Future[Answer],
    now: float,
) -> Request:
    """Make a request of what a client wants of a model.

    Args:
        model: what to predict with.
        bound: the rows, and what is wanted of them.
        available: mask of the members that are up.
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
        extras=Extras(spec, wish, bound.rows) if wish.has_extras else None,
    )
