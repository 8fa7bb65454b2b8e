"""Flows: who shares the devices, and how much device time each has had.

Runs in the front-end; pure. The requests of one priority to one model are a flow. A higher
priority goes first; flows of the same priority share the devices' time equally, as far as they
want it, so that a flood of requests to one ensemble does not starve another.

Each flow has a virtual time: the device time that its rows were given. Whoever has had least goes
first. A flow that had nothing to do does not save time up: when it comes back it starts from where
the others are. Source: Goyal, Vin and Cheng, "Start-time Fair Queueing: A Scheduling Algorithm for
Integrated Services Packet Switching Networks" (SIGCOMM 1996).
"""

from __future__ import annotations

__all__ = ["HIGH", "NORMAL", "Flow", "Flows", "Level", "turn_of"]

HIGH, NORMAL = 0, 1


class Level:
    """The flows of one priority.

    Attributes:
        number: the lower, the sooner.
        used_s: the virtual time of the flow that was served last, when it was.
    """

    __slots__ = ("number", "used_s")

    def __init__(self, number: int) -> None:
        self.number = number
        self.used_s = 0.0


class Flow:
    """Requests of one priority to one model.

    Attributes:
        level: its priority.
        used_s: its virtual time.
        pending: rows that wait for a member of theirs, once for each such member.
        bias: how long its requests take in comparison with what is forecast, learned.
        learned: when that was learned, or doubted, last.
    """

    __slots__ = ("bias", "learned", "level", "pending", "used_s")

    def __init__(self, level: Level) -> None:
        self.level = level
        self.used_s = 0.0
        self.pending = 0
        self.bias = 1.0
        self.learned = 0.0

    def wait(self, rows: int) -> None:
        """Rows of it begin to wait."""
        if not self.pending:
            self.used_s = max(self.used_s, self.level.used_s)
        self.pending += rows

    def leave(self, rows: int) -> None:
        """Rows of it wait no longer."""
        self.pending -= rows

    def charge(self, seconds: float) -> None:
        """Give it device time."""
        self.level.used_s = max(self.level.used_s, self.used_s)
        self.used_s += seconds


class Flows:
    """A flow per model and priority."""

    def __init__(self) -> None:
        self._levels = (Level(HIGH), Level(NORMAL))
        self._flows: dict[tuple[int, int, int], Flow] = {}

    def of(self, arena: int, ensemble: int, level: int) -> Flow:
        """The flow of the requests of a priority to a model, which arena and index tell."""
        key = arena, ensemble, level
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(self._levels[level])
        return flow


def turn_of(flow: Flow) -> tuple[int, float]:
    """A flow's place among flows: the least goes first."""
    return flow.level.number, flow.used_s
