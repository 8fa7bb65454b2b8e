"""Decides when another allocation is worth a change, from traffic, devices and latencies.

Pure, used in the supervisor; the clock is an argument. Traffic and losses of devices flow in,
search tasks flow out; what they found flows in, decisions flow out.

An allocation is worth a change if the rows/s of the present mix that it can serve exceed those of
the present one by a threshold and by what the change costs: the time that a device loads models in,
as a share of the time in which the change should pay. It must be so for a window of traffic and for
each quarter of it, and after a change nothing is changed for a while: a burst changes nothing, and
a mix that goes to and fro is served by an allocation for its mean. A lost device does not wait.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

from allocator.matrix import AllocationMatrix
from allocator.problem import Problem
from server.following.correction import corrected
from server.following.search import Candidate, Found, SearchTask
from server.following.traffic import Stages, Traffic, demand_of, total

__all__ = ["Controller", "Decision", "FollowLimits"]

#: Fewer rows in a window say nothing about a mix.
_FEWEST_ROWS = 100
_MOST_OBSERVED = 10_000
#: What of a window must have been observed, and the parts that it is judged by.
_FULL = 0.9
_PARTS = 4
#: A search is not repeated while no member's demand has changed by more than this share, beside
#: so many rows per row of traffic, ...
_SAME_DEMAND = 0.05
_SAME_ROWS = 0.01
#: ... and not sooner than after this share of a window.
_SEARCH_SHARE = 0.25
#: When a lost device is tried again, at first and at most.
_FIRST_TRIAL_S = 60.0
_LAST_TRIAL_S = 1800.0
#: How often it is logged that nothing changes.
_STAY_LOGGED_S = 1800.0


@dataclass(frozen=True)
class FollowLimits:
    """What a change must be worth, and what the search may take; see `placement.follow`.

    Attributes:
        gain: by which share more rows/s must be possible.
        window_s: the traffic that counts.
        pause_s: how long after a change nothing is changed.
        payback_s: in which time a change must pay.
        search_s: the time limit of a search.
        tolerance: the share of a rate that is within the profiles' noise.
        fill: whether spare memory is filled.
    """

    gain: float = 0.10
    window_s: float = 60.0
    pause_s: float = 120.0
    payback_s: float = 600.0
    search_s: float = 10.0
    tolerance: float = 0.0
    fill: bool = True


@dataclass(frozen=True)
class Decision:
    """What becomes of a search: an allocation to change to, None to stay; `reason` has figures.

    `is_notable` if people should see it: all changes, and now and then that nothing changes.
    """

    move: Candidate | None
    reason: str
    is_notable: bool


@dataclass
class _Lost:
    """A device that was lost: when it is tried again, and how long after that."""

    trial: float
    delay_s: float


class Controller:
    """Follows the traffic of one deployment after another.

    `load_s` is what the loading of an instance takes until a change has been measured.
    """

    def __init__(self, *, load_s: float) -> None:
        self._load_s = load_s
        self._window: deque[tuple[float, Traffic]] = deque(maxlen=_MOST_OBSERVED)
        self._lost: dict[str, _Lost] = {}
        self._searched: tuple[Problem, dict[str, float]] | None = None
        self._quiet_until = self._next_search = self._logged = -math.inf
        self._urgent_at = math.inf

    # -- what happens -------------------------------------------------------------------------

    def serve(
        self,
        generation: int,
        *,
        limits: FollowLimits,
        problem: Problem,
        stages: Stages,
        matrix: AllocationMatrix,
        now: float,
    ) -> None:
        """A deployment is served from now on: its traffic counts, and none of before."""
        self._generation, self._limits, self._problem = generation, limits, problem
        self._stages, self._matrix = stages, matrix
        self._window.clear()
        self._searched = None
        for device in self.placed:  # they have come up
            self._lost.pop(device, None)
        self._quiet_until = now + self._limits.pause_s
        self._urgent_at = math.inf

    def observe(self, traffic: Traffic, now: float) -> None:
        """Note what was served until now."""
        if traffic.generation == self._generation:
            self._window.append((now, traffic))

    def lose(self, device: str, now: float) -> None:
        """A device is lost for good, or until it is tried again."""
        before = self._lost.get(device)
        delay_s = _FIRST_TRIAL_S if before is None else min(2 * before.delay_s, _LAST_TRIAL_S)
        self._lost[device] = _Lost(now + delay_s, delay_s)
        if device in self.placed:
            self._urgent_at = now

    def regain(self, device: str) -> None:
        """A device that was lost is there again by itself."""
        self._lost.pop(device, None)

    @property
    def placed(self) -> frozenset[str]:
        """The devices that members are on at present."""
        return frozenset(device for device, _, _ in self._matrix.instances())

    @property
    def lost(self) -> frozenset[str]:
        """The devices that are lost at present."""
        return frozenset(self._lost)

    # -- decisions ----------------------------------------------------------------------------

    def next_task(self, now: float) -> SearchTask | None:
        """The search that is due now, if one is."""
        gone = {name for name, one in self._lost.items() if one.trial > now}
        is_urgent = len(gone) < len(self._lost) or now >= self._urgent_at
        if not is_urgent and now < max(self._quiet_until, self._next_search):
            return None
        while self._window and self._window[0][0] <= now - self._limits.window_s:
            self._window.popleft()
        traffic = total(one for _, one in self._window)
        says_enough = traffic.rows >= _FEWEST_ROWS and traffic.seconds >= self._least_seconds
        left = [device for device in self._problem.devices if device.name not in gone]
        if not left or not (says_enough or is_urgent):
            return None
        demand = demand_of(traffic, self._stages)
        problem = replace(self._problem, devices=tuple(left), demand=demand)
        problem = corrected(problem, traffic)
        if not is_urgent and self._is_known(problem):
            return None
        self._next_search = now + _SEARCH_SHARE * self._limits.window_s
        self._searched = problem, demand
        return SearchTask.of(
            problem,
            self._matrix,
            parts=self._parts(now),
            time_limit_s=self._limits.search_s,
            tolerance=self._limits.tolerance,
            fill=self._limits.fill,
        )

    @property
    def _least_seconds(self) -> float:
        return _FULL * self._limits.window_s

    def _parts(self, now: float) -> tuple[dict[str, float], ...]:
        parts: list[list[Traffic]] = [[] for _ in range(_PARTS)]
        for moment, one in self._window:
            parts[int((now - moment) / self._limits.window_s * _PARTS)].append(one)
        demands = [demand_of(total(part), self._stages) for part in parts]
        return tuple(demand for demand in demands if demand)

    def _is_known(self, problem: Problem) -> bool:
        """Whether a search for about the same was the last one."""
        if self._searched is None:
            return False
        before, demand = self._searched
        is_same = (before.devices, *before.profiles) == (problem.devices, *problem.profiles)
        return is_same and all(
            abs(rows - problem.demand[member]) <= _SAME_DEMAND * rows + _SAME_ROWS
            for member, rows in demand.items()
        )

    def decide(self, task: SearchTask, found: Found, now: float) -> Decision:
        """Decide by what a search has found."""
        self._postpone(task, now)
        if found.error:
            return self._stay(f"no other allocation: {found.error}", now, is_new=True)
        if not found.candidates:
            return self._stay("the present allocation is the best one found", now)
        best = max(found.candidates, key=lambda one: self._worth(one, found.present))
        gain = _gain(best.rows_s, found.present.rows_s)
        cost = self._cost(best)
        figures = _figures(found, best, cost)
        least = min([gain, *_part_gains(best, found.present)])
        if least - cost <= self._limits.gain:
            lasting = f"; a part of the time only {least:+.1%}" if least < gain else ""
            return self._stay(f"{figures}{lasting}; the threshold is {self._limits.gain:.0%}", now)
        return Decision(best, figures + self._describe_lost(), is_notable=True)

    def _postpone(self, task: SearchTask, now: float) -> None:
        """Devices of the task that are lost are on trial: the next one is later."""
        for device in task.devices:
            if device.name in self._lost:
                self.lose(device.name, now)
        served = {member for name, member, _ in self._matrix.instances() if name not in self._lost}
        is_served = served.issuperset(self._problem.members)
        self._urgent_at = math.inf if is_served else now + _FIRST_TRIAL_S

    def _worth(self, one: Candidate, present: Candidate) -> float:
        gain = min([_gain(one.rows_s, present.rows_s), *_part_gains(one, present)])
        # Where nothing can be served now, the fastest is the best.
        return one.rows_s if gain == math.inf else gain - self._cost(one)

    def _cost(self, one: Candidate) -> float:
        """The share of its payback time that a change takes; devices load side by side."""
        return self._load_s * max(one.new.values(), default=0) / self._limits.payback_s

    def _stay(self, why: str, now: float, *, is_new: bool = False) -> Decision:
        is_notable = is_new or now - self._logged >= _STAY_LOGGED_S
        if is_notable:
            self._logged = now
        return Decision(None, why + self._describe_lost(), is_notable)

    def _describe_lost(self) -> str:
        return f"; lost: {', '.join(sorted(self._lost))}" if self._lost else ""

    def changed(self, move: Candidate, took_s: float) -> None:
        """A change has succeeded."""
        if instances := max(move.new.values(), default=0):
            self._load_s = (self._load_s + took_s / instances) / 2

    def refused(self, now: float) -> None:
        """A change was refused: it is not tried again soon, unless a member is not served."""
        self._searched = None
        self._quiet_until = now + self._limits.payback_s


def _gain(after: float, before: float) -> float:
    return after / before - 1 if before > 0 else math.inf


def _part_gains(one: Candidate, present: Candidate) -> list[float]:
    pairs = zip(one.parts_rows_s, present.parts_rows_s, strict=True)
    return [_gain(after, before) for after, before in pairs]


def _figures(found: Found, best: Candidate, cost: float) -> str:
    """What a change would bring and cost, for people."""
    bound = "" if found.bound_rows_s is None else f", at most {_rate(found.bound_rows_s)} possible"
    another = f"{_rate(best.rows_s)} by another allocation"
    if found.present.rows_s:
        gain = f"{_gain(best.rows_s, found.present.rows_s):+.1%}"
        what = f"{_rate(found.present.rows_s)} rows/s of the present mix are possible, {another}"
        what = f"{what} ({gain}{bound})"
    else:
        what = f"a member is not served at present; rows/s of the mix: {another}{bound}"
    return f"{what}; {sum(best.new.values())} instances to load cost {cost:.1%}"


def _rate(rows_s: float) -> str:
    return f"{rows_s:,.0f}" if rows_s >= 1000 else f"{rows_s:.4g}"
