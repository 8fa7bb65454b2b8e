"""What happened in a simulation run, as the engine writes it down.

Used within one simulation run; `figures` reads it at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from allocator.simulation.jobs import DeviceState, InstanceState

__all__ = ["Moment", "Records"]


@dataclass(frozen=True)
class Moment:
    """The counters at one moment.

    Attributes:
        time: seconds since the start.
        busy_s: of each device.
        jobs: of each instance.
        rows: of each instance.
        refused: how many requests so far.
        process_s: seconds in which the processes beside the workers had work, by name.
    """

    time: float
    busy_s: tuple[float, ...]
    jobs: tuple[int, ...]
    rows: tuple[int, ...]
    refused: int
    process_s: dict[str, float]


class Records:
    """The requests, and the counters at both ends of the window that the figures are about.

    Args:
        devices: whose counters are read.
        instances: whose counters are read.

    Attributes:
        came: by request, seconds since the start.
        rows: by request.
        ended: by request, when it was answered; NaN if it was not.
        settled: how many requests are answered or refused.
        refused: how many are refused.
        events: how many things happened.
        process_s: seconds in which front-end, combiner and load generator had work, by name.
        window: the counters at the end of the warm-up; None before.
        end: the counters at the end.
    """

    def __init__(self, devices: Sequence[DeviceState], instances: Sequence[InstanceState]) -> None:
        self.devices, self.instances = devices, instances
        self.came: list[float] = []
        self.rows: list[int] = []
        self.ended: list[float] = []
        self.settled = self.refused = self.events = 0
        self.process_s: dict[str, float] = {}
        self.window: Moment | None = None
        self.end = self._moment(0.0)
        self._start = self.end

    def add(self, count: int, rows: int, now: float) -> int:
        """Requests come; returns the index of the first."""
        first = len(self.came)
        self.came.extend([now] * count)
        self.rows.extend([rows] * count)
        self.ended.extend([math.nan] * count)
        return first

    def answer(self, requests: Sequence[int], now: float) -> None:
        """Requests are answered."""
        for request in requests:
            self.ended[request] = now
        self.settled += len(requests)

    def refuse(self) -> None:
        """A request is refused."""
        self.settled += 1
        self.refused += 1

    def open_window(self, now: float) -> None:
        """The warm-up is over."""
        self.window = self._moment(now)

    def close(self, now: float) -> None:
        """The run is over. If the warm-up never was, the window is all of it."""
        self.end = self._moment(now)
        if self.window is None:
            self.window = self._start

    def _moment(self, now: float) -> Moment:
        return Moment(
            time=now,
            busy_s=tuple(
                one.busy_s + (now - one.started if one.running else 0.0) for one in self.devices
            ),
            jobs=tuple(one.jobs for one in self.instances),
            rows=tuple(one.rows for one in self.instances),
            refused=self.refused,
            process_s=dict(self.process_s),
        )
