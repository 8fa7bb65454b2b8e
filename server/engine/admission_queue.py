"""The requests that wait for slots of an arena: a bounded queue per flow, served in turn.

Runs in the front-end; pure. It is bounded by requests and by rows, for each flow by itself: a flood
of requests to one model leaves the others' capacity alone. Flows are served in the order of their
rank (`allocator.dispatch.flows`), as by the devices. A flow that has its share of the arena
(`slots.py`) is skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from allocator.dispatch.flows import Flow, rank_of
from server.engine.request import Request
from server.errors import QueueFull

__all__ = ["AdmissionQueue"]


class _FlowRequests:
    """The requests of one flow, and how many rows they have to claim together."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0


class AdmissionQueue:
    """Requests with rows to claim, by flow; the limits are for each flow.

    One request alone may have more than `max_rows` rows. `requests` is how many wait in all.
    """

    def __init__(self, max_requests: int, max_rows: int) -> None:
        self._max_requests = max_requests
        self._max_rows = max_rows
        self._flows: dict[Flow, _FlowRequests] = {}
        self.requests = 0

    def __iter__(self) -> Iterator[Request]:
        return (request for queued in self._flows.values() for request in queued.requests)

    def rows(self, flow: Flow) -> int:
        """How many rows the requests of a flow have still to claim."""
        queued = self._flows.get(flow)
        return queued.rows if queued is not None else 0

    def first(self, skipped: Collection[Flow] = ()) -> Request | None:
        """The request to serve next, except for some flows; None if there is none."""
        flows = [flow for flow in self._flows if flow not in skipped]
        return self._flows[min(flows, key=rank_of)].requests[0] if flows else None

    def check(self, request: Request) -> None:
        """Raise `QueueFull` if a request's flow has too many requests or rows here already."""
        queued = self._flows.get(request.flow)
        requests, rows = (len(queued.requests), queued.rows) if queued is not None else (0, 0)
        if requests >= self._max_requests or (rows and rows + request.rows > self._max_rows):
            raise QueueFull(
                f"the arena is full: {requests} requests to {request.model.public.name!r} "
                f"with {rows} rows wait"
            )

    def append(self, request: Request) -> None:
        """Add a request, behind those of its flow."""
        queued = self._flows.setdefault(request.flow, _FlowRequests())
        queued.requests.append(request)
        queued.rows += request.rows - request.claimed
        self.requests += 1

    def note_claim(self, request: Request, rows: int) -> None:
        """The first request of its flow has claimed rows: it is removed if these were its last.

        Else it moves behind the others of its flow.
        """
        queued = self._flows[request.flow]
        assert queued.requests[0] is request
        queued.rows -= rows
        if request.claimed < request.rows:
            queued.requests.rotate(-1)
        else:
            queued.requests.popleft()
            self._count_removed(request.flow, queued)

    def remove(self, request: Request) -> None:
        """Remove a request, wherever it stands; nothing happens if it is not here."""
        queued = self._flows.get(request.flow)
        if queued is not None and request in queued.requests:
            queued.requests.remove(request)
            queued.rows -= request.rows - request.claimed
            self._count_removed(request.flow, queued)

    def _count_removed(self, flow: Flow, queued: _FlowRequests) -> None:
        self.requests -= 1
        if not queued.requests:
            del self._flows[flow]
