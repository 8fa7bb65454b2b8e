"""Late binding: which member runs next, and on which device.

Runs in the front-end; pure (the clock is an argument). Members wait with their pending rows;
devices have room for few jobs. The policy:

1. the member that has rows of the highest priority goes first; among equals the one with rows of
   the flow that has had the least device time (`flows.py`); then the one whose oldest row has
   waited longest; then the one that has the fewest jobs open, so that a slow member does not keep
   the others out; then the one with the longest job, so that a lone request's members spread over
   idle devices and finish together;
2. its job goes to its best device, busy or not: the one that, alone, would be through with all its
   pending rows first; for few rows the one that would finish them first, for many the one with the
   most rows per second, also where batch sizes differ; if that one has no room, the job waits;
3. a device that then still has room helps, if it finishes a batch before the best device would be
   through with all that waits for it: an idle slow device declines a lone row that a busy fast one
   would finish sooner, but in a crowd it works, and no row it takes is answered later than the
   last of those that wait would have been without it;
4. it helps where it is the least slow in comparison with the best device, not where rows are the
   oldest: a device that is bad at a member would do little of it in the time in which it could do
   much of another's, and the best device, which takes the oldest first, makes up for it;
5. a message costs time as well, so that tiny jobs go out together instead of waking everybody;
6. a device has room for one job and one more to fetch meanwhile; beyond that only while its
   backlog is shorter than a message's way there and back, and only for members it has nothing of,
   so that tiny members go out together and heavy ones are bound late.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.batching import Turn
from server.engine.fleet_state import DeviceState, Member, OpenJob, Placement

__all__ = ["choose"]

_MESSAGE_S = 0.0003


def choose(members: Sequence[Member], next_job: int, now: float) -> list[OpenJob]:
    """Bind pending rows to devices until none has room for what waits.

    The devices' states and the pending lists are updated; the caller sends the jobs.

    Args:
        members: all members.
        next_job: the first unused job id; ids are given out upwards from it.
        now: seconds on the clock of the pending ranges.
    """
    queue: list[_Key] = []
    has_room = False
    for index, member in enumerate(members):
        if member.pending.rows and (key := _key(member, index)):
            queue.append(key)
            has_room = has_room or _has_room(member, now)
    jobs: list[OpenJob] = []
    if not has_room:
        return jobs
    heapq.heapify(queue)
    starts: dict[DeviceState, float] = {}
    load: dict[DeviceState, float] = {}
    waiting: list[_Waiting] = []
    while queue:
        turn, _, _, index = heapq.heappop(queue)
        member = members[index]
        best, seconds = _best(member, starts, now)
        if not best.device.has_room(best, now):
            load[best.device] = load.get(best.device, 0.0) + seconds
            if len(member.placements) > 1:
                waiting.append(_Waiting(index, best, seconds))
            continue
        jobs.append(_open(best, next_job + len(jobs), turn[2], starts, now))
        if member.pending.rows and (key := _key(member, index)):
            heapq.heappush(queue, key)
    while helped := _helped(waiting, starts, load, now):
        waiter, helper = helped
        since = helper.member.pending.turn[2]
        jobs.append(_open(helper, next_job + len(jobs), since, starts, now))
        device, rows = waiter.best.device, helper.member.pending.rows
        load[device] -= waiter.seconds
        if rows:
            waiter.seconds = waiter.best.latency.total(rows)
            load[device] += waiter.seconds
        else:
            waiting.remove(waiter)
    for job in jobs:  # only now: within one round members go by age
        for flow, ranges in job.shares:
            rows = sum([stop - start for start, stop in ranges])
            flow.charge(job.expected_s * rows / job.rows)
    return jobs


@dataclass(slots=True, eq=False)
class _Waiting:
    """A member whose best device has no room.

    Attributes:
        index: its place among the members.
        best: its placement there.
        seconds: what all its pending rows would take there.
    """

    index: int
    best: Placement
    seconds: float


#: A member's place in the queue: its turn, its open jobs, its longest job, its index.
_Key = tuple[Turn, int, float, int]


def _key(member: Member, index: int) -> _Key | None:
    """The place in the queue of a member with pending rows; None if no device that has it is up.

    Its job is as long as it is on the fastest device.
    """
    rows = member.pending.rows
    least = math.inf
    for placement in member.placements:
        if placement.device.up:
            seconds = placement.latency.seconds(rows)
            least = min(least, seconds)
    if least == math.inf:
        return None
    return member.pending.turn, member.open_jobs, -least, index


def _has_room(member: Member, now: float) -> bool:
    """Whether some device has room for a member."""
    for placement in member.placements:
        if placement.device.up and placement.device.has_room(placement, now):
            return True
    return False


def _best(member: Member, starts: dict[DeviceState, float], now: float) -> tuple[Placement, float]:
    """The placement that, alone, would be through with a member's rows first, and in what time.

    Args:
        member: one with pending rows and a device that is up.
        starts: by device, when a new job would start there, in seconds from now; filled in here.
        now: seconds.
    """
    best: Placement | None = None
    best_s, earliest = 0.0, math.inf
    rows = member.pending.rows
    for placement in member.placements:
        device = placement.device
        if device.up:
            start = starts.get(device)
            if start is None:
                start = starts[device] = device.backlog_s(now) + _MESSAGE_S
            seconds = placement.latency.total(rows)
            if start + seconds < earliest:
                best, best_s, earliest = placement, seconds, start + seconds
    assert best is not None
    return best, best_s


def _open(
    placement: Placement, number: int, since: float, starts: dict[DeviceState, float], now: float
) -> OpenJob:
    """Bind a member's next batch, whose oldest row came at `since`."""
    pending, device = placement.member.pending, placement.device
    ranges, shares = pending.take(placement.latency.batch)
    rows = sum([stop - start for start, stop in ranges])
    expected_s = placement.latency.seconds(rows)
    job = OpenJob(number, placement, ranges, rows, expected_s, since, now, shares)
    device.open(job, now)
    starts[device] = device.backlog_s(now)  # its message is paid for
    return job


def _helped(
    waiting: Sequence[_Waiting],
    starts: dict[DeviceState, float],
    load: dict[DeviceState, float],
    now: float,
) -> tuple[_Waiting, Placement] | None:
    """Who is helped next, and where; None if nobody is.

    Args:
        waiting: those that may be helped.
        starts: by device, when a new job would start there, in seconds from now.
        load: by device, what the rows of all members that wait for it would take there.
        now: seconds.
    """
    helped: tuple[_Waiting, Placement] | None = None
    least = math.inf, math.inf, 0
    for waiter in waiting:
        best = waiter.best
        through = starts[best.device] + load[best.device]
        pending = best.member.pending.rows
        for placement in best.member.placements:
            device = placement.device
            if device.up and placement is not best:
                seconds = placement.latency.seconds(pending)
                finish = starts[device] + seconds
                if finish < through and device.has_room(placement, now):
                    rows = min(pending, placement.latency.batch)
                    key = seconds * pending / (waiter.seconds * rows), finish, waiter.index
                    if key < least:
                        helped, least = (waiter, placement), key
    return helped
