"""From rows in the arena to jobs for workers: who waits for whom, and when that is looked at.

Runs in the front-end's event loop, between the gateway and the fleet. Rows come in with the members
that are to predict them; they are bound to devices in the next turn of the loop, when the requests
that have already arrived are in, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from server.gateway.accepted import Request
from server.gateway.batching import Range
from server.gateway.fleet import Fleet
from server.gateway.flows import Flow
from server.gateway.inflight import InFlight

__all__ = ["Dispatching"]


class Dispatching:
    """Lets rows wait for their members, and gives out what can be given out.

    Args:
        fleet: the workers, and the lists in which rows wait for them.
        flights: what is in each arena.
        call_soon: has a function called in the next turn of the event loop.
        hear: takes in what workers and combiner have said: it may have waited.
    """

    def __init__(
        self,
        fleet: Fleet,
        flights: Sequence[InFlight],
        *,
        call_soon: Callable[[Callable[[], None]], object],
        hear: Callable[[], None],
    ) -> None:
        self._fleet = fleet
        self._flights = flights
        self._call_soon = call_soon
        self._hear = hear
        self._is_due = False
        self._fresh: list[tuple[int, int, Flow, list[Range]]] = []

    def let_wait(self, request: Request, members: int, span: Range) -> None:
        """Let a request's rows wait for the members in a mask, from the next turn on."""
        fresh, flow = self._fresh, request.flow
        if fresh and fresh[-1][2] is flow and fresh[-1][1] == members:
            fresh[-1][3].append(span)
        else:
            fresh.append((request.model.arena, members, flow, [span]))
        self.soon()

    def enqueue_fresh(self) -> None:
        """Let them wait from now on: whoever looks for rows in the lists finds them there."""
        fresh, self._fresh = self._fresh, []
        now = time.monotonic()
        for arena, members, flow, ranges in fresh:
            self._fleet.enqueue(arena, members, ranges, now, flow)

    def soon(self) -> None:
        """Give out what can be given out, in the next turn."""
        if not self._is_due:
            self._is_due = True
            self._call_soon(self._dispatch)

    def _dispatch(self) -> None:
        try:
            self._hear()
        finally:
            self._is_due = False
        self.enqueue_fresh()
        now = time.monotonic()
        jobs = self._fleet.dispatch(now)
        for job in jobs:
            self._flights[job.placement.member.arena].start(job.ranges, now)
