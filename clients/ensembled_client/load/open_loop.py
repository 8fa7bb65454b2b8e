"""An open loop: requests when a schedule says so, see `loops`. Runs in each load process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from ensembled_client.load.answers import Verdict
from ensembled_client.load.lag import Alarm
from ensembled_client.load.lanes import Lane, LaneMaker
from ensembled_client.load.loops import expire
from ensembled_client.load.recorder import Recorder
from ensembled_client.load.schedule import Arrival
from ensembled_client.load.workload import Rotation

__all__ = ["OpenLoop"]


class OpenLoop:
    """Sends what is due, on any free connection.

    Args:
        make_lane: makes a connection.
        most_lanes: how many at most; when all are busy, requests wait here for the first free one.
        rotation: the requests.
        arrivals: when, since the start of the warm-up, and of how many rows.
        recorder: counts.
        clock_ns: the monotonic clock.
        make_alarm: makes an alarm of a callback.
    """

    #: Connections that are opened before the test.
    READY_LANES = 8

    def __init__(
        self,
        make_lane: LaneMaker,
        *,
        most_lanes: int,
        rotation: Rotation,
        arrivals: Iterator[Arrival],
        recorder: Recorder,
        clock_ns: Callable[[], int],
        make_alarm: Callable[[Callable[[], None]], Alarm],
    ) -> None:
        self.done = asyncio.Event()
        self._make_lane = make_lane
        self._most_lanes = most_lanes
        self._rotation = rotation
        self._arrivals = arrivals
        self._recorder = recorder
        self._clock_ns = clock_ns
        self._alarm = make_alarm(self._tick)
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._waiting: deque[Arrival] = deque()
        self._start_ns = 0
        self._due: Arrival | None = None
        self._stopped = False

    @property
    def in_flight(self) -> int:
        """Requests that were due and have no answer."""
        return len(self._lanes) - len(self._idle) + len(self._waiting)

    async def open(self) -> None:
        """Connect the first lanes; the others follow when they are needed.

        Raises:
            OSError: if one can't.
        """
        for _ in range(min(self.READY_LANES, self._most_lanes)):
            lane = self._new_lane()
            await lane.open()
            self._idle.append(lane)

    def _new_lane(self) -> Lane:
        lane = self._make_lane(self._ended)
        self._lanes.append(lane)
        return lane

    def start(self, at_ns: int) -> None:
        """Keep to the schedule, which begins at `at_ns`."""
        self._start_ns = at_ns
        self._advance()
        self._tick()

    def _advance(self) -> None:
        following = next(self._arrivals, None)
        self._due = following and (self._start_ns + following[0], following[1])

    def _tick(self) -> None:
        """Send all that is due."""
        now_ns = self._clock_ns()
        while self._due is not None and self._due[0] <= now_ns and not self._stopped:
            due_ns, rows = self._due
            self._recorder.late(due_ns, now_ns)
            self._recorder.begun(due_ns)
            self._launch(due_ns, rows)
            self._advance()
            now_ns = self._clock_ns()
        if self._due is not None and not self._stopped:
            self._alarm.set(self._due[0])
        self._finish_if_idle()

    def _launch(self, due_ns: int, rows: int) -> None:
        if self._idle:
            self._send(self._idle.pop(), due_ns, rows)
        elif len(self._lanes) < self._most_lanes:
            self._send(self._new_lane(), due_ns, rows)
        else:
            if self._recorder.window.contains(due_ns):
                self._recorder.waited += 1
            self._waiting.append((due_ns, rows))

    def _send(self, lane: Lane, due_ns: int, rows: int) -> None:
        lane.intended_ns, lane.rows = due_ns, rows
        lane.sent_ns = self._clock_ns()
        lane.send(self._rotation.next(rows))

    def _ended(self, lane: Lane, verdict: Verdict) -> None:
        self._recorder.ended(lane.intended_ns, lane.sent_ns, self._clock_ns(), lane.rows, verdict)
        if self._waiting:
            self._send(lane, *self._waiting.popleft())
        else:
            self._idle.append(lane)
            self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        if (self._due is None or self._stopped) and self.in_flight == 0:
            self.done.set()

    def stop(self) -> None:
        """Send nothing more that becomes due; what was due may end."""
        self._stopped = True
        self._finish_if_idle()

    def expire(self, before_ns: int, error: str) -> None:
        """Give up requests that were due before that time, sent or not."""
        while self._waiting and self._waiting[0][0] < before_ns:
            due_ns, rows = self._waiting.popleft()
            now_ns = self._clock_ns()
            self._recorder.ended(due_ns, now_ns, now_ns, rows, Verdict(f"{error} (never sent)"))
        expire(self._lanes, before_ns, error)
        self._finish_if_idle()

    def abandon(self) -> None:
        """Count all that have no answer as abandoned."""
        for lane in self._lanes:
            if lane.is_busy:
                self._recorder.abandon(lane.intended_ns)
        for due_ns, _ in self._waiting:
            self._recorder.abandon(due_ns)

    async def close(self) -> None:
        """Close all connections."""
        self._alarm.close()
        for lane in self._lanes:
            await lane.close()
