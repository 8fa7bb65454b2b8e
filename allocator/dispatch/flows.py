"""Flows share the devices fairly: each one's virtual time counts the device time it has used.

Pure; part of the dispatch policy. The requests of one priority to one model are a flow. A higher
priority goes first; flows of one priority share the devices' time equally, as far as they want it,
so that a flood of requests to one ensemble does not starve another.

This is start-time fair queueing: each flow has a virtual time, the device time that its rows were
given, and the flow with the least goes first. An idle flow saves no time up: when it comes back it
starts from where the others are. Source: Goyal, Vin and Cheng, "Start-time Fair Queueing: A
Scheduling Algorithm for Integrated Services Packet Switching Networks" (SIGCOMM 1996).
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["HIGH", "LOW", "NORMAL", "Flow", "Flows", "PriorityLevel", "rank_of"]

HIGH, NORMAL, LOW = 0, 1, 2


class PriorityLevel:
    """What the flows of one priority share; the lower the `number`, the sooner.

    `virtual_s` is the virtual time of the flow that was served last.
    """

    __slots__ = ("number", "virtual_s")

    def __init__(self, number: int) -> None:
        self.number = number
        self.virtual_s = 0.0


class Flow:
    """Requests of one priority to one model.

    `pending` counts rows that wait for a member, once for each such member. `bias` is how long its
    requests take in comparison with their forecast; it was learned or decayed last at
    `bias_updated`.
    """

    __slots__ = ("bias", "bias_updated", "level", "pending", "virtual_s")

    def __init__(self, level: PriorityLevel) -> None:
        self.level = level
        self.virtual_s = 0.0
        self.pending = 0
        self.bias = 1.0
        self.bias_updated = 0.0

    def add_pending(self, rows: int) -> None:
        """Count rows that begin to wait."""
        if not self.pending:
            self.virtual_s = max(self.virtual_s, self.level.virtual_s)
        self.pending += rows

    def remove_pending(self, rows: int) -> None:
        """Count rows that wait no longer."""
        self.pending -= rows

    def charge(self, seconds: float) -> None:
        """Account device time to it."""
        self.level.virtual_s = max(self.level.virtual_s, self.virtual_s)
        self.virtual_s += seconds


class Flows:
    """A flow per model and priority, made at its first use, and kept while the model is served."""

    def __init__(self) -> None:
        self._levels = tuple(map(PriorityLevel, (HIGH, NORMAL, LOW)))
        self._flows: dict[tuple[str, int], Flow] = {}

    def get(self, model: str, priority: int) -> Flow:
        """The flow of the requests of a priority to a model."""
        key = model, priority
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(self._levels[priority])
        return flow

    def keep(self, models: Collection[str]) -> None:
        """Forget the flows of all other models."""
        self._flows = {key: flow for key, flow in self._flows.items() if key[0] in models}


def rank_of(flow: Flow) -> tuple[int, float]:
    """What flows are ordered by: the least goes first."""
    return flow.level.number, flow.virtual_s
