"""The requests that wait for space in an arena: so many of each flow, and served in turn.

Runs in the front-end; pure. It is bounded by requests and by rows, for each flow by itself: a
flood of requests to one model leaves the others' room alone. Whose turn it is, is told by the flow
(`flows.py`), as it is for the devices. Who has its share of the arena (`slots.py`) is passed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from allocator.dispatch.flows import Flow, rank_of
from server.engine.request import Request
from server.errors import QueueFull

__all__ = ["WaitingRoom"]


class _Line:
    """The requests of one flow, and how many rows they have to claim together."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0


class WaitingRoom:
    """Requests with rows to claim, by flow.

    Args:
        max_requests: how many of a flow may wait.
        max_rows: how many rows a flow's requests may have together; one alone may have more.

    Attributes:
        requests: how many wait.
    """

    def __init__(self, max_requests: int, max_rows: int) -> None:
        self._max_requests = max_requests
        self._max_rows = max_rows
        self._lines: dict[Flow, _Line] = {}
        self.requests = 0

    def __iter__(self) -> Iterator[Request]:
        return (request for line in self._lines.values() for request in line.requests)

    def rows(self, flow: Flow) -> int:
        """How many rows the requests of a flow have still to claim."""
        line = self._lines.get(flow)
        return line.rows if line is not None else 0

    def first(self, passed_over: Collection[Flow] = ()) -> Request | None:
        """Whose turn it is, but for some flows."""
        flows = [flow for flow in self._lines if flow not in passed_over]
        return self._lines[min(flows, key=rank_of)].requests[0] if flows else None

    def check(self, request: Request) -> None:
        """Whether there is a seat for a request.

        Raises:
            QueueFull: if its flow has too many requests or rows here already.
        """
        line = self._lines.get(request.flow)
        requests, rows = (len(line.requests), line.rows) if line is not None else (0, 0)
        if requests >= self._max_requests or (rows and rows + request.rows > self._max_rows):
            raise QueueFull(
                f"the arena is full: {requests} requests to {request.model.name!r} "
                f"with {rows} rows wait"
            )

    def enter(self, request: Request) -> None:
        """Let a request wait, behind those of its flow."""
        line = self._lines.setdefault(request.flow, _Line())
        line.requests.append(request)
        line.rows += request.rows - request.claimed
        self.requests += 1

    def has_claimed(self, request: Request, rows: int) -> None:
        """The first request of its flow has claimed rows: it goes if these were its last.

        Else it waits for its next turn behind the others.
        """
        line = self._lines[request.flow]
        assert line.requests[0] is request
        line.rows -= rows
        if request.claimed < request.rows:
            line.requests.rotate(-1)
        else:
            line.requests.popleft()
            self._has_gone(request.flow, line)

    def leave(self, request: Request) -> None:
        """Let a request go, wherever it stands; nothing happens if it is not here."""
        line = self._lines.get(request.flow)
        if line is not None and request in line.requests:
            line.requests.remove(request)
            line.rows -= request.rows - request.claimed
            self._has_gone(request.flow, line)

    def _has_gone(self, flow: Flow, line: _Line) -> None:
        self.requests -= 1
        if not line.requests:
            del self._lines[flow]
