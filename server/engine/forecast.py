"""Forecast of how long a request will take, by what waits before it and how fast batches run.

Runs in the front-end; pure (the clock is an argument). Devices know what they hold, members what
waits for them, and instances, from every batch they run, how long a batch takes. From these follows
when a device would have finished what is before a new request:

- what it holds already;
- all that waits there with a higher priority;
- of what waits there with the same priority, all of it, or what its own flow has times the number
  of flows that share the device, whichever is less: flows take turns (`allocator.dispatch.flows`).

Rows of a member on several devices are split between them in the ratio of their speeds. This is
measured a hundred times a second at most, not for every request, and advanced by the rows accepted
since. How a forecast compares with what happened is learned as the flow's `bias`. A bias that no
request confirms decays: one that has all requests refused would never be found wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from allocator.dispatch.flows import Flow
from allocator.dispatch.state import DeviceState, Member, Placement
from server.engine.request import Request
from server.errors import DeadlineExceeded

__all__ = ["Forecast", "Prospect", "learn"]

#: How long a measurement is valid: the longer, the more instances there are, since it costs more.
_VALID_S, _MOST_VALID_S, _INSTANCES = 0.01, 0.1, 20
#: From shorter forecasts nothing is learned: other things take as long.
_LEAST_S = 0.005
_LEARNING = 0.05
_LEAST_BIAS, _LARGEST_BIAS = 0.5, 4.0
#: If nothing was learned for so long, or for as long as a request takes, a bias decays.
_DECAY_S = 0.5


class Prospect(NamedTuple):
    """The forecast of a request, in seconds from now.

    `wait_s` is until the work before it is done, `total_s` until the request itself is.
    """

    wait_s: float
    total_s: float


@dataclass(slots=True)
class _Load:
    """The load of a device, in seconds: jobs held, and pending rows by priority and by flow."""

    held_s: float
    levels: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    flows: defaultdict[Flow, float] = field(default_factory=lambda: defaultdict(float))

    def before(self, flow: Flow, more_s: float) -> float:
        """What is before a new row of a flow that has `more_s` elsewhere."""
        level = flow.level.number
        own_s = self.flows.get(flow, 0.0) + more_s
        sharers = sum(other.level is flow.level for other in self.flows)
        sharers += flow not in self.flows
        same_s = min(self.levels[level] + more_s, sharers * own_s)
        return self.held_s + sum(self.levels[:level]) + same_s


@dataclass(slots=True)
class _Delay:
    """The delay of new rows at a member, in seconds: a wait, then so much per row.

    A lone row takes as long as the shortest batch.
    """

    wait_s: float
    row_s: float
    least_s: float

    def prospect(self, accepted: int, rows: int) -> Prospect:
        wait_s = self.wait_s + accepted * self.row_s
        return Prospect(wait_s, wait_s + max(rows * self.row_s, self.least_s))


class _Outlook:
    """The forecasts of a flow, and how many of its rows were accepted since they were made.

    `decisive` has the delay at the last member to answer, by the arena, the members that are
    expected, how many of them must answer, and about how many rows.
    """

    __slots__ = ("accepted", "decisive")

    def __init__(self) -> None:
        self.accepted = 0
        self.decisive: dict[tuple[int, int, int, int], _Delay] = {}


class Forecast:
    """Forecasts for all flows."""

    def __init__(self, members: Mapping[int, Sequence[Member]]) -> None:
        self._members = members
        self._loads: dict[DeviceState, _Load] = {}
        self._outlooks: dict[Flow, _Outlook] = {}
        self.renew()

    def renew(self) -> None:
        """The members, or their placements, are not those of before."""
        members = self._members
        instances = sum(len(member.placements) for arena in members.values() for member in arena)
        names = {index: [member.name for member in arena] for index, arena in members.items()}
        #: By arena, those of its length classes: they have the same members.
        self._classes = {
            index: [members[other] for other, theirs in names.items() if theirs == own]
            for index, own in names.items()
        }
        self._valid_s = min(_VALID_S * max(1.0, instances / _INSTANCES), _MOST_VALID_S)
        self._until = 0.0
        self._loads.clear()
        self._outlooks.clear()

    def has_pending(self, arena: int) -> bool:
        """Whether rows are pending for a member of an arena, in any of its length classes."""
        for members in self._classes[arena]:
            if any(member.pending.rows for member in members):
                return True
        return False

    def prospect(self, request: Request, needed: int, queued_rows: int) -> Prospect:
        """How long a request that is not accepted yet would take; it stores that without the bias.

        `needed` of its expected members must answer; `queued_rows` of its flow wait for slots.
        """
        flow, now, expected = request.flow, request.accepted, request.expected
        if now >= self._until:
            self._until = now + self._valid_s
            self._loads = self._measure(now)
            self._outlooks.clear()
        outlook = self._outlooks.get(flow)
        if outlook is None:
            outlook = self._outlooks[flow] = _Outlook()
        what = request.model.arena, expected, needed, request.rows.bit_length()
        decisive = outlook.decisive.get(what)
        if decisive is None:
            delays = [
                self._delay(member, flow, queued_rows)
                for index, member in enumerate(self._members[request.model.arena])
                if expected >> index & 1
            ]
            delays.sort(key=lambda delay: delay.prospect(outlook.accepted, request.rows).total_s)
            decisive = outlook.decisive[what] = delays[needed - 1]
        wait_s, total_s = decisive.prospect(outlook.accepted, request.rows)
        request.forecast_s = total_s
        if now - flow.bias_updated > _DECAY_S:
            _decay(flow, now, total_s)
        return Prospect(wait_s * flow.bias, total_s * flow.bias)

    def accept(self, request: Request) -> None:
        """A request was accepted: its rows are before all that come later."""
        outlook = self._outlooks.get(request.flow)
        if outlook is not None:
            outlook.accepted += request.rows

    def _measure(self, now: float) -> dict[DeviceState, _Load]:
        loads: dict[DeviceState, _Load] = {}
        for members in self._members.values():
            for member in members:
                for placement, share in _shares(member):
                    device = placement.device
                    load = loads.get(device)
                    if load is None:
                        load = loads[device] = _Load(device.backlog_s(now))
                    if member.pending.rows:
                        _add(load, placement, share)
        return loads

    def _delay(self, member: Member, flow: Flow, queued_rows: int) -> _Delay:
        """What is before a row is split between the member's devices, as their speeds are."""
        delay = _Delay(0.0, 0.0, 0.0)
        for placement, share in _shares(member):
            row_s = _row_s(placement) * share
            load = self._loads.get(placement.device) or _Load(0.0)
            delay.wait_s += load.before(flow, queued_rows * row_s) * share
            delay.row_s += row_s * share
            delay.least_s += placement.latency.seconds(1) * share
        return delay


def learn(request: Request, now: float) -> None:
    """Learn from how long a request that is over has taken, compared with its forecast.

    One that ran into its deadline has taken at least that long. Of others that failed, or whose
    members did not all answer, nothing is learned.
    """
    if request.forecast_s < _LEAST_S:
        return
    flow = request.flow
    is_late = isinstance(request.close_reason, DeadlineExceeded)
    is_whole = request.error is request.close_reason is None and not request.short
    if is_late or is_whole:
        bias = (now - request.accepted) / request.forecast_s
        flow.bias += _LEARNING * (min(max(bias, _LEAST_BIAS), _LARGEST_BIAS) - flow.bias)
        flow.bias_updated = now


def _decay(flow: Flow, now: float, total_s: float) -> None:
    """Halve a bias that no request has confirmed for long; requests take `total_s`."""
    half_s = max(_DECAY_S, total_s)
    age_s = now - flow.bias_updated
    if age_s > half_s:
        flow.bias = 1.0 + (flow.bias - 1.0) * 0.5 ** (age_s / half_s)
        flow.bias_updated = now


def _add(load: _Load, placement: Placement, share: float) -> None:
    """Add a member's pending rows to the load of a device."""
    pending = placement.member.pending
    row_s = placement.latency.total(pending.rows) / pending.rows * share
    for flow, rows in pending.flows():
        load.flows[flow] += rows * row_s
        load.levels[flow.level.number] += rows * row_s


def _row_s(placement: Placement) -> float:
    """Seconds per row of a full batch."""
    latency = placement.latency
    return latency.seconds(latency.batch) / latency.batch


def _shares(member: Member) -> list[tuple[Placement, float]]:
    """A member's placements on devices that are up (or all, if none is), and their shares."""
    placements = [placement for placement in member.placements if placement.device.up]
    placements = placements or member.placements
    if len(placements) == 1:
        return [(placements[0], 1.0)]
    rates = [1 / max(_row_s(placement), 1e-9) for placement in placements]
    total = sum(rates)
    return [(placement, rate / total) for placement, rate in zip(placements, rates, strict=True)]
