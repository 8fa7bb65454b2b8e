"""A simulation's event queue and clock, and the cores that its processes share.

Used within one simulation run. Calls that are due at a moment, or after some seconds of work, flow
in; they flow out in the order of time, those of one moment in the order in which they came in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

__all__ = ["SharedTimeline", "Timeline"]

Call = Callable[[Any], None]
_Entry = tuple[float, int, Call, Any]

#: The kernel's weights of processes at nice 0 and at nice 5 (`sched_prio_to_weight`).
_WEIGHT = 1024
_NICE_WEIGHT = 335


class Timeline:
    """A clock on which all work runs at full speed; `now` is seconds since the start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[_Entry] = []
        self._serial = 0
        self._cancelled: set[int] = set()

    def at(self, time: float, call: Call, payload: Any = None) -> None:
        """Let something happen at a moment."""
        self._serial += 1
        heapq.heappush(self._heap, (time, self._serial, call, payload))

    def work(self, seconds: float, call: Call, payload: Any, cores: int, nice: bool) -> int:
        """Call `call` with the payload after some seconds of work at full speed; return a handle.

        The work keeps so many cores busy, 0 if it does not run on the host's; `nice` is nice 5.
        `cancel` takes the handle.
        """
        self._serial += 1
        heapq.heappush(self._heap, (self.now + seconds, self._serial, call, payload))
        return self._serial

    def cancel(self, serial: int) -> None:
        """Cancel work that has not ended."""
        self._cancelled.add(serial)

    def next_time(self) -> float:
        """When the next thing happens; infinity if nothing will."""
        if self._cancelled:
            self._drop_cancelled(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop(self) -> tuple[Call, Any]:
        """Move the clock to `next_time`, which was called just before, and return the call."""
        self.now, _, call, payload = heapq.heappop(self._heap)
        return call, payload

    def _drop_cancelled(self, heap: list[_Entry]) -> None:
        while heap and heap[0][1] in self._cancelled:
            self._cancelled.discard(heapq.heappop(heap)[1])


class _Pace:
    """Work of one weight, all at one speed: ends are kept on a clock that runs at that speed."""

    def __init__(self) -> None:
        self.heap: list[_Entry] = []
        self.clock = 0.0
        self.speed = 1.0
        self.cores = 0


class SharedTimeline(Timeline):
    """A clock on which work on the host's cores slows down when there is more than cores.

    The cores are shared as by the kernel's fair scheduler: every runnable thread gets time by its
    weight, but none more than a core. Work keeps as many threads runnable as it has cores. Two
    weights exist, so at any time there are two speeds. That processes are pinned to certain
    cores, and that a computation over several threads waits for its slowest, is not modelled.
    """

    def __init__(self, cores: int) -> None:
        super().__init__()
        self._cores = cores
        self._normal, self._nice = _Pace(), _Pace()
        self._paces = self._normal, self._nice
        self._next: _Pace | None = None
        self._on_cores: dict[int, tuple[_Pace, int]] = {}

    def work(self, seconds: float, call: Call, payload: Any, cores: int, nice: bool) -> int:
        """Let something happen after some seconds of work, see `Timeline.work`."""
        if not cores:
            return super().work(seconds, call, payload, cores, nice)
        pace = self._nice if nice else self._normal
        self._serial += 1
        heapq.heappush(pace.heap, (pace.clock + seconds, self._serial, call, payload))
        self._on_cores[self._serial] = pace, cores
        pace.cores += cores
        self._share()
        return self._serial

    def cancel(self, serial: int) -> None:
        """Cancel work that has not ended."""
        super().cancel(serial)
        self._leave(serial)

    def next_time(self) -> float:
        """When the next thing happens if nothing changes; infinity if nothing will."""
        self._next = None
        earliest = super().next_time()
        for pace in self._paces:
            if self._cancelled:
                self._drop_cancelled(pace.heap)
            if pace.heap:
                # Rounding must not move the clock back.
                ahead = max(pace.heap[0][0] - pace.clock, 0.0)
                if (time := self.now + ahead / pace.speed) < earliest:
                    earliest, self._next = time, pace
        return earliest

    def pop(self) -> tuple[Call, Any]:
        """Move the clocks to `next_time`, which was called just before; return the call."""
        before, pace = self.now, self._next
        if pace is None:
            call, payload = super().pop()
            self._pass_time(self.now - before)
            return call, payload
        end, serial, call, payload = heapq.heappop(pace.heap)
        seconds = max(end - pace.clock, 0.0) / pace.speed
        self.now = before + seconds
        self._pass_time(seconds)
        pace.clock = max(pace.clock, end)
        self._leave(serial)
        return call, payload

    def _pass_time(self, seconds: float) -> None:
        for pace in self._paces:
            pace.clock += seconds * pace.speed

    def _leave(self, serial: int) -> None:
        if serial in self._on_cores:
            pace, cores = self._on_cores.pop(serial)
            pace.cores -= cores
            self._share()

    def _share(self) -> None:
        """Set the two speeds: fill up by weight, what reaches a whole core needs no more."""
        normal, nice = self._normal, self._nice
        if normal.cores + nice.cores <= self._cores:
            normal.speed = nice.speed = 1.0
            return
        level = self._cores / (_WEIGHT * normal.cores + _NICE_WEIGHT * nice.cores)
        if _WEIGHT * level < 1:
            normal.speed, nice.speed = _WEIGHT * level, _NICE_WEIGHT * level
        else:
            normal.speed = 1.0
            nice.speed = (self._cores - normal.cores) / nice.cores
