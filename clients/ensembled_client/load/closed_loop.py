"""A closed loop: clients that wait for their answers, see `loops`. Runs in each load process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ensembled_client.load.answers import Verdict
from ensembled_client.load.lanes import Lane, LaneMaker
from ensembled_client.load.loops import expire
from ensembled_client.load.recorder import Recorder
from ensembled_client.load.workload import Rotation

__all__ = ["ClosedLoop"]

# A lane that has lost its connection waits so long before it tries again: a server that is gone
# should not cost all the CPU there is.
_BACKOFF_S = 0.05


class ClosedLoop:
    """So many clients, each with one request at a time.

    Args:
        make_lane: makes a connection.
        lanes: how many clients.
        rotation: the requests.
        rows: of each.
        count: how many requests to send in the measurement; None for no limit.
        recorder: counts.
        clock_ns: the monotonic clock.
    """

    def __init__(
        self,
        make_lane: LaneMaker,
        *,
        lanes: int,
        rotation: Rotation,
        rows: int,
        count: int | None,
        recorder: Recorder,
        clock_ns: Callable[[], int],
    ) -> None:
        self.done = asyncio.Event()
        self._lanes = [make_lane(self._ended) for _ in range(lanes)]
        self._rotation = rotation
        self._rows = rows
        self._left = count
        self._recorder = recorder
        self._clock_ns = clock_ns
        self._active = 0
        self._stopped = False

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have no answer."""
        return sum(lane.is_busy for lane in self._lanes)

    async def open(self) -> None:
        """Connect all lanes.

        Raises:
            OSError: if one can't.
        """
        for lane in self._lanes:
            await lane.open()

    def start(self, at_ns: int) -> None:
        """Let every client send."""
        self._active = len(self._lanes)
        for lane in self._lanes:
            self._next(lane)

    def _next(self, lane: Lane) -> None:
        now_ns = self._clock_ns()
        is_measured = self._recorder.window.has_begun(now_ns)
        if self._stopped or (is_measured and self._left == 0):
            self._retire()
            return
        if is_measured and self._left is not None:
            self._left -= 1
        lane.intended_ns = lane.sent_ns = now_ns
        lane.rows = self._rows
        self._recorder.begun(now_ns)
        lane.send(self._rotation.next(self._rows))

    def _ended(self, lane: Lane, verdict: Verdict) -> None:
        self._recorder.ended(lane.intended_ns, lane.sent_ns, self._clock_ns(), lane.rows, verdict)
        if verdict.error is not None and not lane.is_open and not self._stopped:
            asyncio.get_running_loop().call_later(_BACKOFF_S, self._next, lane)
        else:
            self._next(lane)

    def _retire(self) -> None:
        self._active -= 1
        if self._active == 0:
            self.done.set()

    def stop(self) -> None:
        """Send no more requests; those in flight may end."""
        self._stopped = True

    def expire(self, before_ns: int, error: str) -> None:
        """Give up requests that were sent before that time."""
        expire(self._lanes, before_ns, error)

    def abandon(self) -> None:
        """Count all that have no answer as abandoned."""
        for lane in self._lanes:
            if lane.is_busy:
                self._recorder.abandon(lane.intended_ns)

    async def close(self) -> None:
        """Close all connections."""
        for lane in self._lanes:
            await lane.close()
