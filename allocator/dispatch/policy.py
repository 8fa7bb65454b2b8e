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
from allocator.dispatch.state import DeviceState, LatencyEstimate, Member, OpenJob, Placement

__all__ = ["bind"]

_MESSAGE_S = 0.0003


def bind(members: Sequence[Member], next_job: int, now: float) -> list[OpenJob]:
    """Bind pending rows to devices until none has capacity for what waits.

    The devices' states and the pending rows are updated; the caller runs the jobs, which are in the
    order of binding. Their ids ascend from `next_job`, the first unused; `now` is in seconds on
    the clock of the pending rows.
    """
    for member in members:
        if member.pending.rows and _has_capacity(member, now):
            break
    else:
        return []
    jobs: list[OpenJob] = []
    starts: dict[DeviceState, float] = {}  # when a new job would start there, seconds from now
    full: set[DeviceState] = set()  # no capacity for any member
    queue: list[_Key] = []
    for index, member in enumerate(members):
        if member.pending.rows and (key := _key(member, index, starts, full, now)):
            queue.append(key)
    heapq.heapify(queue)
    blocked: list[_Blocked] = []
    while queue and len(full) < len(starts):
        rank, _, _, index = heapq.heappop(queue)
        member = members[index]
        best, seconds = _best(member, starts)
        if best.device in full or not best.device.has_capacity(best, now):
            blocked.append(_Blocked(index, best, seconds))
            continue
        jobs.append(_open(best, next_job + len(jobs), rank[2], starts=starts, full=full, now=now))
        if member.pending.rows and (key := _key(member, index, starts, full, now)):
            heapq.heappush(queue, key)
    if blocked and len(full) < len(starts):
        _help(blocked, jobs, next_job, starts=starts, full=full, now=now)
    _charge_flows(jobs)  # only now: within one round members go by age
    return jobs


def _charge_flows(jobs: Sequence[OpenJob]) -> None:
    for job in jobs:
        if len(job.shares) == 1:
            job.shares[0][0].charge(job.expected_s)
            continue
        for flow, ranges in job.shares:
            rows = sum([stop - start for start, stop in ranges])
            flow.charge(job.expected_s * rows / job.rows)


#: What members are ordered by: their rank, open jobs, minus the longest job's seconds, index.
_Key = tuple[Rank, int, float, int]


def _key(
    member: Member,
    index: int,
    starts: dict[DeviceState, float],
    full: set[DeviceState],
    now: float,
) -> _Key | None:
    """The key of a member with pending rows; None if no device that holds it is up.

    Its job is as long as it is on the fastest device. Adds its devices to `starts` and `full`.
    """
    rows = member.pending.rows
    least = math.inf
    known: LatencyEstimate | None = None
    for placement in member.placements:
        device = placement.device
        if device.up:
            if device not in starts:
                backlog_s = device.backlog_s(now)
                starts[device] = backlog_s + _MESSAGE_S
                if device.is_full(backlog_s):
                    full.add(device)
            if placement.latency is not known:  # a simulation's devices of a kind share it
                known = placement.latency
                least = min(least, known.seconds(rows))
    if known is None:
        return None
    return member.pending.rank, member.open_jobs, -least, index


def _has_capacity(member: Member, now: float) -> bool:
    """Whether some device has capacity for a member."""
    for placement in member.placements:
        if placement.device.up and placement.device.has_capacity(placement, now):
            return True
    return False


def _best(member: Member, starts: dict[DeviceState, float]) -> tuple[Placement, float]:
    """The placement that, alone, would finish a member's rows first, and in how long."""
    best: Placement | None = None
    best_s = seconds = 0.0
    earliest = math.inf
    rows = member.pending.rows
    known: LatencyEstimate | None = None
    for placement in member.placements:
        if placement.device.up:
            if placement.latency is not known:  # a simulation's devices of a kind share it
                known = placement.latency
                seconds = known.total(rows)
            finish = starts[placement.device] + seconds
            if finish < earliest:
                best, best_s, earliest = placement, seconds, finish
    assert best is not None
    return best, best_s


def _open(
    placement: Placement,
    number: int,
    since: float,
    *,
    starts: dict[DeviceState, float],
    full: set[DeviceState],
    now: float,
) -> OpenJob:
    """Bind a member's next batch, whose oldest row has waited since `since`."""
    device, latency = placement.device, placement.latency
    ranges, shares = placement.member.pending.pop_batch(latency.batch)
    rows = sum([stop - start for start, stop in ranges])
    job = OpenJob(number, placement, ranges, rows, latency.seconds(rows), since, now, shares)
    device.open(job, now)
    backlog_s = device.backlog_s(now)
    starts[device] = backlog_s  # its message is paid for
    if device.is_full(backlog_s):
        full.add(device)
    return job


@dataclass(slots=True, eq=False)
class _Blocked:
    """A member whose best device has no capacity.

    There, all its pending rows would take `seconds`; `helpers` are its placements on other devices
    that may have capacity.
    """

    index: int
    best: Placement
    seconds: float
    helpers: Sequence[Placement] = ()


def _help(
    blocked: list[_Blocked],
    jobs: list[OpenJob],
    next_job: int,
    *,
    starts: dict[DeviceState, float],
    full: set[DeviceState],
    now: float,
) -> None:
    """Bind rows of blocked members to devices with capacity where that helps.

    The jobs are added to `jobs`, members without further rows are removed from `blocked`.
    """
    load: dict[DeviceState, float] = {}  # how long all rows that wait for it would take there
    for member in blocked:
        best = member.best
        load[best.device] = load.get(best.device, 0.0) + member.seconds
        member.helpers = [
            placement
            for placement in best.member.placements
            if placement.device not in full and placement.device.up and placement is not best
        ]
    while len(full) < len(starts) and (found := _find_helper(blocked, starts, full, load, now)):
        helped, helper = found
        since = helper.member.pending.rank[2]
        jobs.append(_open(helper, next_job + len(jobs), since, starts=starts, full=full, now=now))
        device, rows = helped.best.device, helper.member.pending.rows
        load[device] -= helped.seconds
        if rows:
            helped.seconds = helped.best.latency.total(rows)
            load[device] += helped.seconds
        else:
            blocked.remove(helped)


def _find_helper(
    blocked: Sequence[_Blocked],
    starts: dict[DeviceState, float],
    full: set[DeviceState],
    load: dict[DeviceState, float],
    now: float,
) -> tuple[_Blocked, Placement] | None:
    """The next member to help, and the placement that helps it; None if there is none."""
    found: tuple[_Blocked, Placement] | None = None
    least = math.inf, math.inf, 0
    for member in blocked:
        best = member.best
        through = starts[best.device] + load[best.device]
        pending = best.member.pending.rows
        for placement in member.helpers:
            device = placement.device
            if device not in full:
                seconds = placement.latency.seconds(pending)
                finish = starts[device] + seconds
                if finish < through and device.has_capacity(placement, now):
                    rows = min(pending, placement.latency.batch)
                    key = seconds * pending / (member.seconds * rows), finish, member.index
                    if key < least:
                        found, least = (member, placement), key
    return found
