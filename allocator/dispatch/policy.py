"""Late binding: which member runs next, on which device, with how many rows.

Pure (the clock is an argument). Members have pending rows; devices have capacity for few jobs. The
policy:

1. the member with rows of the highest priority goes first; among equals the one with rows of the
   flow that has had the least device time (`allocator.dispatch.flows`); then the one whose oldest
   row has waited longest; then the one with the fewest open jobs, so that a slow member does not
   keep the others out; then the one with the longest job, so that a lone request's members spread
   over idle devices and finish together;
2. its job goes to its best device, busy or not: the one that, alone, would finish all its pending
   rows first; for few rows the one that would finish them first, for many the one with the most
   rows per second, also where batch sizes differ; if that one has no capacity, the job waits;
3. a device that then still has capacity helps, if it finishes a batch before the best device would
   have finished all that waits for it: an idle slow device declines a lone row that a busy fast one
   would finish sooner, but in a crowd it works, and no row it runs is answered later than the
   last of those that wait would have been without it;
4. it helps where it is the least slow in comparison with the best device, not where rows are the
   oldest: a device that is bad at a member would do little of it in the time in which it could do
   much of another's, and the best device, which runs the oldest first, makes up for it;
5. a message costs time as well, so that tiny jobs go out together instead of waking every device;
6. a device has capacity for one job and one more to fetch meanwhile; beyond that only while its
   backlog is shorter than a message's way there and back, and only for members it has nothing of,
   so that tiny members go out together and heavy ones are bound late.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from allocator.dispatch.pending import Rank
from allocator.dispatch.state import DeviceState, Member, OpenJob, Placement

__all__ = ["bind"]

_MESSAGE_S = 0.0003


def bind(members: Sequence[Member], next_job: int, now: float) -> list[OpenJob]:
    """Bind pending rows to devices until none has capacity for what waits.

    The devices' states and the pending rows are updated; the caller runs the jobs.

    Args:
        members: all members.
        next_job: the first unused job id; ids are given out upwards from it.
        now: seconds on the clock of the pending rows.

    Returns:
        The jobs, in the order of binding.
    """
    queue: list[_Key] = []
    has_capacity = False
    for index, member in enumerate(members):
        if member.pending.rows and (key := _key(member, index)):
            queue.append(key)
            has_capacity = has_capacity or _has_capacity(member, now)
    jobs: list[OpenJob] = []
    if not has_capacity:
        return jobs
    heapq.heapify(queue)
    starts: dict[DeviceState, float] = {}
    full: set[DeviceState] = set()
    load: dict[DeviceState, float] = {}
    blocked: list[_Blocked] = []
    while queue:
        rank, _, _, index = heapq.heappop(queue)
        member = members[index]
        best, seconds = _best(member, starts, full, now)
        if best.device in full or not best.device.has_capacity(best, now):
            load[best.device] = load.get(best.device, 0.0) + seconds
            if len(member.placements) > 1:
                blocked.append(_Blocked(index, best, seconds))
            continue
        jobs.append(_open(best, next_job + len(jobs), rank[2], starts, now))
        if best.device.is_full(starts[best.device]):
            full.add(best.device)
        if member.pending.rows and (key := _key(member, index)):
            heapq.heappush(queue, key)
    while len(full) < len(starts) and (found := _find_helper(blocked, starts, full, load, now)):
        helped, helper = found
        since = helper.member.pending.rank[2]
        jobs.append(_open(helper, next_job + len(jobs), since, starts, now))
        device, rows = helped.best.device, helper.member.pending.rows
        load[device] -= helped.seconds
        if rows:
            helped.seconds = helped.best.latency.total(rows)
            load[device] += helped.seconds
        else:
            blocked.remove(helped)
    _charge_flows(jobs)  # only now: within one round members go by age
    return jobs


def _charge_flows(jobs: Sequence[OpenJob]) -> None:
    for job in jobs:
        for flow, ranges in job.shares:
            rows = sum([stop - start for start, stop in ranges])
            flow.charge(job.expected_s * rows / job.rows)


@dataclass(slots=True, eq=False)
class _Blocked:
    """A member whose best device has no capacity.

    Attributes:
        index: its place among the members.
        best: its placement there.
        seconds: how long all its pending rows would take there.
    """

    index: int
    best: Placement
    seconds: float


#: What members are ordered by: their rank, open jobs, minus the longest job's seconds, index.
_Key = tuple[Rank, int, float, int]


def _key(member: Member, index: int) -> _Key | None:
    """The key of a member with pending rows; None if no device that holds it is up.

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
    return member.pending.rank, member.open_jobs, -least, index


def _has_capacity(member: Member, now: float) -> bool:
    """Whether some device has capacity for a member."""
    for placement in member.placements:
        if placement.device.up and placement.device.has_capacity(placement, now):
            return True
    return False


def _best(
    member: Member, starts: dict[DeviceState, float], full: set[DeviceState], now: float
) -> tuple[Placement, float]:
    """The placement that, alone, would finish a member's rows first, and how long they take there.

    Args:
        member: one with pending rows and a device that is up.
        starts: by device, when a new job would start there, in seconds from now; filled in here.
        full: those without capacity for any member; filled in here.
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
                backlog_s = device.backlog_s(now)
                start = starts[device] = backlog_s + _MESSAGE_S
                if device.is_full(backlog_s):
                    full.add(device)
            seconds = placement.latency.total(rows)
            if start + seconds < earliest:
                best, best_s, earliest = placement, seconds, start + seconds
    assert best is not None
    return best, best_s


def _open(
    placement: Placement,
    number: int,
    since: float,
    starts: dict[DeviceState, float],
    now: float,
) -> OpenJob:
    """Bind a member's next batch, whose oldest row has waited since `since`."""
    pending, device = placement.member.pending, placement.device
    ranges, shares = pending.pop_batch(placement.latency.batch)
    rows = sum([stop - start for start, stop in ranges])
    expected_s = placement.latency.seconds(rows)
    job = OpenJob(number, placement, ranges, rows, expected_s, since, now, shares)
    device.open(job, now)
    starts[device] = device.backlog_s(now)  # its message is paid for
    return job


def _find_helper(
    blocked: Sequence[_Blocked],
    starts: dict[DeviceState, float],
    full: set[DeviceState],
    load: dict[DeviceState, float],
    now: float,
) -> tuple[_Blocked, Placement] | None:
    """Which member is helped next, and where; None if none is.

    Args:
        blocked: the members that may be helped.
        starts: by device, when a new job would start there, in seconds from now.
        full: devices without capacity for any member.
        load: by device, how long the rows of all members that wait for it would take there.
        now: seconds.
    """
    found: tuple[_Blocked, Placement] | None = None
    least = math.inf, math.inf, 0
    for member in blocked:
        best = member.best
        through = starts[best.device] + load[best.device]
        pending = best.member.pending.rows
        for placement in best.member.placements:
            device = placement.device
            if device.up and device not in full and placement is not best:
                seconds = placement.latency.seconds(pending)
                finish = starts[device] + seconds
                if finish < through and device.has_capacity(placement, now):
                    rows = min(pending, placement.latency.batch)
                    key = seconds * pending / (member.seconds * rows), finish, member.index
                    if key < least:
                        found, least = (member, placement), key
    return found
