"""The two ways to generate load on connections to the server. Run in each load process.

In a *closed loop* each of a number of clients sends its next request when it has its response.
Latency counts from the sending: a server that stalls gets fewer requests, and its stall is one
latency per connection.

An *open loop* sends when a schedule says so, whatever the server does. Latency counts from that
intended start, so it includes the wait in the server, in the network, or here because all
connections were busy (no coordinated omission).

A `RequestResult` is handed over by callback: a task per request would cost as much as all the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ensembled_client.load.schedule import Arrival, Timer, new_timer
from ensembled_client.load.stats import RequestResult, RequestStats

__all__ = [
    "ClosedLoadLoop",
    "LoadConnection",
    "LoadLoop",
    "NewConnection",
    "OpenLoadLoop",
]

# A client that has lost its connection waits so long before it tries again: a server that is gone
# should not cost all the CPU there is.
_BACKOFF_S = 0.05
# Connections that an open loop opens before the test.
_INITIAL_CONNECTIONS = 8


@dataclass(eq=False, slots=True, weakref_slot=True)
class LoadConnection(ABC):
    """Carries one request at a time.

    `on_result` is called when the request has ended and the connection is free; the other
    attributes are the current request's (`is_busy`).
    """

    on_result: OnResult
    intended_ns: int = field(default=0, init=False)
    sent_ns: int = field(default=0, init=False)
    rows: int = field(default=0, init=False)
    is_busy: bool = field(default=False, init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the next request needs no new connection."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; OSError if that fails."""

    @abstractmethod
    def send(self, request: bytes) -> None:
        """Send a request, connecting first if need be; `on_result` is called later, once.

        The connection is not busy, and the caller has set the attributes.
        """

    @abstractmethod
    def _abort(self) -> None:
        """Drop at once what no other connection shares."""

    def cancel(self, error: str) -> None:
        """Stop waiting for the response: `on_result` is called with this error."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._abort()
        if self.is_busy:
            self._finish(RequestResult(error))

    async def close(self) -> None:
        """Disconnect; `on_result` is not called any more."""
        self.is_busy = False
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._abort()

    def _finish(self, result: RequestResult) -> None:
        self.is_busy = False
        self.on_result(self, result)


OnResult = Callable[[LoadConnection, RequestResult], None]
NewConnection = Callable[[OnResult], LoadConnection]


@dataclass(eq=False, kw_only=True)
class LoadLoop(ABC):
    """Sends requests on its connections, and records how they end."""

    new_connection: NewConnection
    requests: Mapping[int, Iterator[bytes]]  # by their number of rows
    stats: RequestStats
    clock_ns: Callable[[], int] = time.monotonic_ns
    done: asyncio.Event = field(default_factory=asyncio.Event, init=False)  # at the last result
    _connections: list[LoadConnection] = field(default_factory=list, init=False)
    _is_stopped: bool = field(default=False, init=False)

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Requests that were sent, or are due, and have no response."""

    @abstractmethod
    async def open(self) -> None:
        """Connect before the test; OSError if that fails."""

    @abstractmethod
    def start(self, at_ns: int) -> None:
        """Begin to send; the warm-up starts (or has just started) at `at_ns`."""

    def stop(self) -> None:
        """Send no more requests; those in flight may end."""
        self._is_stopped = True

    def cancel_before(self, before_ns: int, error: str) -> None:
        """Cancel requests that were due before that time."""
        for connection in self._connections:
            if connection.is_busy and connection.intended_ns < before_ns:
                connection.cancel(error)

    def abandon(self) -> None:
        """Record that no response came before the test was interrupted."""
        for connection in self._connections:
            if connection.is_busy:
                self.stats.record_abandoned(connection.intended_ns)

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            await connection.close()

    def _record_end(self, connection: LoadConnection, result: RequestResult) -> None:
        self.stats.record_end(
            connection.intended_ns, connection.sent_ns, self.clock_ns(), connection.rows, result
        )


@dataclass(eq=False, kw_only=True)
class ClosedLoadLoop(LoadLoop):
    """So many clients, each with one request at a time."""

    connections: int
    rows: int
    count: int | None  # requests left to measure; None for no limit
    _active: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Make the connections."""
        self._connections = [self.new_connection(self._finished) for _ in range(self.connections)]

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have no response."""
        return sum(connection.is_busy for connection in self._connections)

    async def open(self) -> None:
        """Open all connections."""
        for connection in self._connections:
            await connection.open()

    def start(self, at_ns: int) -> None:
        """Let every client send."""
        self._active = len(self._connections)
        for connection in self._connections:
            self._send_next(connection)

    def _send_next(self, connection: LoadConnection) -> None:
        now_ns = self.clock_ns()
        is_measured = self.stats.window.has_begun(now_ns)
        if self._is_stopped or (is_measured and self.count == 0):
            self._active -= 1
            if self._active == 0:
                self.done.set()
            return
        if is_measured and self.count is not None:
            self.count -= 1
        connection.intended_ns = connection.sent_ns = now_ns
        connection.rows = self.rows
        self.stats.record_start(now_ns)
        connection.send(next(self.requests[self.rows]))

    def _finished(self, connection: LoadConnection, result: RequestResult) -> None:
        self._record_end(connection, result)
        if result.error is not None and not connection.is_open and not self._is_stopped:
            asyncio.get_running_loop().call_later(_BACKOFF_S, self._send_next, connection)
        else:
            self._send_next(connection)


@dataclass(eq=False, kw_only=True)
class OpenLoadLoop(LoadLoop):
    """Sends what is due, on any free connection; when all are busy, requests wait here."""

    max_connections: int
    arrivals: Iterator[Arrival]
    new_timer: Callable[[Callable[[], None]], Timer] = new_timer
    _idle: list[LoadConnection] = field(default_factory=list, init=False)
    _waiting: deque[Arrival] = field(default_factory=deque, init=False)
    _start_ns: int = field(default=0, init=False)
    _due: Arrival | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Make the timer."""
        self._timer = self.new_timer(self._send_due)

    @property
    def in_flight(self) -> int:
        """Requests that were due and have no response."""
        return len(self._connections) - len(self._idle) + len(self._waiting)

    async def open(self) -> None:
        """Open the first connections; the others follow when they are needed."""
        for _ in range(min(_INITIAL_CONNECTIONS, self.max_connections)):
            connection = self._add_connection()
            await connection.open()
            self._idle.append(connection)

    def _add_connection(self) -> LoadConnection:
        connection = self.new_connection(self._finished)
        self._connections.append(connection)
        return connection

    def start(self, at_ns: int) -> None:
        """Follow the schedule, which begins at `at_ns`."""
        self._start_ns = at_ns
        self._advance()
        self._send_due()

    def _advance(self) -> None:
        arrival = next(self.arrivals, None)
        self._due = arrival and (self._start_ns + arrival[0], arrival[1])

    def _send_due(self) -> None:
        now_ns = self.clock_ns()
        while self._due is not None and self._due[0] <= now_ns and not self._is_stopped:
            due_ns, rows = self._due
            self.stats.record_lag(due_ns, now_ns)
            self.stats.record_start(due_ns)
            self._send_or_queue(due_ns, rows)
            self._advance()
            now_ns = self.clock_ns()
        if self._due is not None and not self._is_stopped:
            self._timer.set(self._due[0])
        self._check_done()

    def _send_or_queue(self, due_ns: int, rows: int) -> None:
        if self._idle:
            self._send(self._idle.pop(), due_ns, rows)
        elif len(self._connections) < self.max_connections:
            self._send(self._add_connection(), due_ns, rows)
        else:
            self.stats.record_queued(due_ns)
            self._waiting.append((due_ns, rows))

    def _send(self, connection: LoadConnection, due_ns: int, rows: int) -> None:
        connection.intended_ns, connection.rows = due_ns, rows
        connection.sent_ns = self.clock_ns()
        connection.send(next(self.requests[rows]))

    def _finished(self, connection: LoadConnection, result: RequestResult) -> None:
        self._record_end(connection, result)
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._idle.append(connection)
            self._check_done()

    def _check_done(self) -> None:
        if (self._due is None or self._is_stopped) and self.in_flight == 0:
            self.done.set()

    def stop(self) -> None:
        """Send nothing more that becomes due; what was due may end."""
        super().stop()
        self._check_done()

    def cancel_before(self, before_ns: int, error: str) -> None:
        """Cancel requests that were due before that time, sent or not."""
        while self._waiting and self._waiting[0][0] < before_ns:
            due_ns, rows = self._waiting.popleft()
            now_ns = self.clock_ns()
            result = RequestResult(f"{error} (never sent)")
            self.stats.record_end(due_ns, now_ns, now_ns, rows, result)
        super().cancel_before(before_ns, error)
        self._check_done()

    def abandon(self) -> None:
        """Record that no response came, or that requests were never sent."""
        super().abandon()
        for due_ns, _ in self._waiting:
            self.stats.record_abandoned(due_ns)

    async def close(self) -> None:
        """Close all connections."""
        self._timer.close()
        await super().close()
