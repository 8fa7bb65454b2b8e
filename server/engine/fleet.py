"""The workers as the front-end sees them: the instances and the jobs that each holds.

Runs in the front-end. Rows and the reports of workers and the supervisor flow in; jobs flow out,
and rows for the combiner to look at and slots to free. A range is bound again only after the worker
that held it was reaped.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allocator.dispatch.flows import Flow
from allocator.dispatch.pending import PendingRows, Range, merge
from allocator.dispatch.policy import bind
from allocator.dispatch.state import (
    DeviceState,
    LatencyEstimate,
    Member,
    OpenJob,
    Placement,
    requeue,
)
from server.engine.statistics import InstanceCounters, MemberCounters
from server.engine.suspects import FAIL_AFTER, Suspects, Verdict
from workers.runtime.arena import Arena
from workers.runtime.messages import Finished, Hello, Predictions, Ready
from workers.runtime.spec import InstanceSpec

__all__ = ["Fleet", "WorkerState"]

_NO_WORKER = "no worker can serve it"

#: Rows of an arena: its index, the first row, one past the last.
ArenaRange = tuple[int, int, int]


class WorkerState:
    """A device's worker: its present incarnation, and what the dispatch policy knows of it.

    `incarnation` is 0 if there is no process; the supervisor has `given_up` one that keeps dying at
    its start. By instance, `placements` are where rows can go, and `counters` what was done: the
    same ones for all instances of a member. `latencies` are those of its last Hello; placements in
    `awaited` get no rows before one has theirs; nobody counts on those that `failed`, without which
    a worker came back that was given up.
    """

    def __init__(self, name: str) -> None:
        self.state = DeviceState(name)
        self.incarnation = 0
        self.given_up = False
        self.placements: dict[int, Placement] = {}
        self.counters: dict[int, InstanceCounters] = {}
        self.latencies: Mapping[int, tuple[float, float]] = {}
        self.awaited: set[int] = set()
        self.failed: set[int] = set()

    def counters_of(self, member: str) -> InstanceCounters:
        """The counters of a member here, which may be new."""
        for instance, placement in self.placements.items():
            if placement.member.name == member:
                return self.counters[instance]
        return InstanceCounters()


@dataclass(slots=True, eq=False)
class _HeldRange:
    """Rows that have ended while so many `jobs` are open that may still touch them."""

    rows: ArenaRange
    jobs: int


class Fleet:
    """All workers, and the rows that wait for them; members are by arena and index.

    Arenas come by `add` and go by `remove`. Counters of a member go on as long as it is in some
    arena. A job has at most `most_rows`.

    Attributes:
        version: changes whenever the set of available members changes.
        predicted: rows that the combiner should look at though no worker reports them; the pipeline
            passes them on and empties the list.
        released: rows that no job holds any longer; the pipeline frees their slots and empties the
            list.
    """

    def __init__(
        self,
        *,
        arenas: Mapping[int, Arena],
        instances: Mapping[str, Sequence[InstanceSpec]],
        most_rows: int = sys.maxsize,
    ) -> None:
        self._arenas: dict[int, Arena] = {}
        self._most_rows = most_rows
        self.version = 0
        self.predicted: list[Predictions] = []
        self.released: list[ArenaRange] = []
        self._next_job = 1
        self._suspects = Suspects()
        self._held: dict[int, list[_HeldRange]] = {}  # by the id of each job that holds them
        self.members: dict[int, list[Member]] = {}
        #: By arena and index; those of equal names are the same.
        self.member_counters: dict[int, list[MemberCounters]] = {}
        self._without: dict[int, Collection[str]] = {}
        self.workers = {name: WorkerState(name) for name in instances}
        self.add(arenas, instances)

    # -- arenas and devices -------------------------------------------------------------------

    def add(
        self, arenas: Mapping[int, Arena], instances: Mapping[str, Sequence[InstanceSpec]]
    ) -> None:
        """Add arenas, and the instances of their members by device; each device has a worker."""
        counters = self._counters_by_name()
        for index, arena in arenas.items():
            self._arenas[index] = arena
            self.members[index] = [
                Member(name, index, position, PendingRows(arena.spec.segment_rows))
                for position, name in enumerate(arena.spec.members)
            ]
            self.member_counters[index] = [counters[name] for name in arena.spec.members]
        for device, specs in instances.items():
            for spec in specs:
                self._place(self.workers[device], spec)
        self._note_members()

    def _place(self, worker: WorkerState, spec: InstanceSpec) -> None:
        member = self.members[spec.arena][spec.member]
        batch = min(spec.batch, self._most_rows)
        placement = Placement(worker.state, spec.id, member, LatencyEstimate(batch))
        worker.counters[spec.id] = worker.counters_of(member.name)
        worker.placements[spec.id] = placement
        if worker.state.up:
            worker.awaited.add(spec.id)
            self._hear_of(worker, placement, is_back=False)
        else:
            member.placements.append(placement)

    def remove(self, arenas: Collection[int]) -> None:
        """Remove arenas, of which no rows are left, and the instances of their members."""
        for worker in self.workers.values():
            gone = [
                instance
                for instance, placement in worker.placements.items()
                if placement.member.arena in arenas
            ]
            for instance in gone:
                del worker.placements[instance], worker.counters[instance]
                worker.awaited.discard(instance)
                worker.failed.discard(instance)
        for index in arenas:
            for member in self.members.pop(index):
                member.placements.clear()  # which refer to it
            del self._arenas[index], self.member_counters[index]
            self._without.pop(index, None)
            self._suspects.forget(index)
        self._note_members()

    def attach(self, device: str) -> None:
        """A new device, which has no instances yet."""
        self.workers[device] = WorkerState(device)

    def detach(self, device: str) -> None:
        """A device that has no instances any more is gone."""
        del self.workers[device]

    def is_idle(self, arenas: Collection[int]) -> bool:
        """Whether no row of these arenas is pending, or held by an open job."""
        return not any(
            member.pending.rows or member.open_jobs
            for index in arenas
            for member in self.members[index]
        )

    def has_heard(self, arenas: Collection[int]) -> bool:
        """Whether all instances of these arenas can get rows."""
        return not any(
            placement.member.arena in arenas and (instance in worker.awaited or not worker.state.up)
            for worker in self.workers.values()
            for instance, placement in worker.placements.items()
        )

    def do_without(self, members: Mapping[int, Collection[str]]) -> None:
        """Have requests accepted from now on not wait for these members, by arena."""
        self._without = {**self._without, **members}
        self._update_served()

    def uses(self, members: Collection[str]) -> bool:
        """Whether rows are pending for some of these members, or held by their open jobs."""
        return any(
            member.name in members and (member.pending.rows or member.open_jobs)
            for member in self._all_members
        )

    def _counters_by_name(self) -> defaultdict[str, MemberCounters]:
        counters: defaultdict[str, MemberCounters] = defaultdict(MemberCounters)
        for index, members in self.members.items():
            for member, counted in zip(members, self.member_counters[index], strict=True):
                counters[member.name] = counted
        return counters

    def _note_members(self) -> None:
        self._all_members = [member for members in self.members.values() for member in members]
        self._update_served()

    # -- rows ---------------------------------------------------------------------------------

    def available(self, arena: int, mask: int) -> int:
        """The mask of those members in `mask` that new requests can wait for."""
        return mask & self._available[arena]

    def served(self, arena: int) -> int:
        """The mask of those members that some worker serves, or will again."""
        return self._served[arena]

    def enqueue(self, arena: int, mask: int, ranges: list[Range], now: float, flow: Flow) -> None:
        """Add rows of a flow to what is pending for the members in `mask`.

        A member that has become unavailable since they were accepted fails on them at once.
        """
        merged = merge(ranges, self._arenas[arena].spec.segment_rows)
        served = self._served[arena]
        for member in self.members[arena]:
            if mask >> member.index & 1:
                for start, stop in merged:
                    if served >> member.index & 1:
                        member.pending.append(start, stop, now, flow)
                    else:
                        self._fail(member, start, stop, _NO_WORKER)

    def withdraw(self, arena: int, start: int, stop: int) -> int:
        """Remove rows wherever they are pending; returns how many predictions that saves."""
        saved = 0
        for member in self.members[arena]:
            saved += member.pending.withdraw(start, stop)
            self._suspects.acquit(member, start, stop)
        return saved

    def hold(self, arena: int, start: int, stop: int) -> bool:
        """Whether open jobs hold any of these rows; if so, the last one of them releases them."""
        jobs = [
            job.id
            for worker in self.workers.values()
            for job in worker.state.jobs.values()
            if job.placement.member.arena == arena
            and any(first < stop and start < last for first, last in job.ranges)
        ]
        held = _HeldRange((arena, start, stop), len(jobs))
        for job in jobs:
            self._held.setdefault(job, []).append(held)
        return bool(jobs)

    def _release(self, job: OpenJob) -> None:
        for held in self._held.pop(job.id, ()):
            held.jobs -= 1
            if held.jobs == 0:
                self.released.append(held.rows)

    # -- dispatch -----------------------------------------------------------------------------

    def dispatch(self, now: float) -> list[OpenJob]:
        """Bind what can be bound to devices, and return the jobs; the caller sends them."""
        try:
            jobs = bind(self._all_members, self._next_job, now)
        except Exception:
            self._unbind_unsent(now)
            raise
        self._next_job += len(jobs)
        return jobs

    def awaits_ready(self, worker: WorkerState) -> bool:
        """Whether something can go on as soon as a worker has finished a job."""
        for placement in worker.placements.values():
            if placement.member.pending.rows:
                return True
        return bool(self._held) and not self._held.keys().isdisjoint(worker.state.jobs)

    def revert(self, device: str, jobs: list[OpenJob], now: float) -> None:
        """Take back jobs that could not be sent; the worker gets none until its next Hello."""
        worker = self.workers[device]
        worker.state.up = False
        self._unbind(worker, jobs, now)

    def _unbind(self, worker: WorkerState, jobs: list[OpenJob], now: float) -> None:
        """Close jobs that the worker has not got; their rows are pending again."""
        for job in reversed(jobs):
            worker.state.close(job.id, now)
            requeue(job)

    def _unbind_unsent(self, now: float) -> None:
        """Unbind what was bound just now, because binding failed in the middle."""
        for worker in self.workers.values():
            jobs = [job for job in worker.state.jobs.values() if job.id >= self._next_job]
            self._unbind(worker, jobs, now)

    # -- reports of the workers ---------------------------------------------------------------

    def hello(self, device: str, message: Hello) -> None:
        """A worker is idle and ready for jobs."""
        worker = self.workers[device]
        is_back = not worker.state.up
        if is_back:
            worker.state.up = True
            if worker.given_up:
                worker.given_up = False
                worker.failed = worker.placements.keys() - message.latencies.keys()
        if is_back or message.latencies.keys() != worker.latencies.keys():
            worker.latencies = message.latencies
            for placement in worker.placements.values():
                self._hear_of(worker, placement, is_back=is_back)
            self._update_served()
            self._fail_unserved()
        now = time.monotonic()
        for job in [job for job in worker.state.jobs if job <= message.finished]:
            self._finish(worker, Finished(job, 0.0), now)

    def _hear_of(self, worker: WorkerState, placement: Placement, *, is_back: bool) -> None:
        """Let rows go to an instance if its worker, which is up, has it, and else not.

        How long its batches take is learned anew if the worker `is_back`, or has just loaded it.
        """
        instance, placements = placement.instance, placement.member.placements
        is_awaited = instance in worker.awaited
        if instance not in worker.latencies:
            if not is_awaited:
                worker.awaited.add(instance)
                placements.remove(placement)
            return
        worker.failed.discard(instance)
        if is_back or is_awaited:
            placement.latency.warm_up(*worker.latencies[instance])
        if is_awaited:
            worker.awaited.remove(instance)
            placements.append(placement)

    def ready(self, device: str, message: Ready, now: float) -> None:
        """A worker has finished jobs."""
        worker = self.workers[device]
        for finished in message.finished:
            self._finish(worker, finished, now)

    def _finish(self, worker: WorkerState, finished: Finished, now: float) -> None:
        """Close a finished job; how long it took is unknown if that is reported as zero."""
        job = worker.state.close(finished.job, now)
        if job is None:
            return
        if self._count(worker, job, finished) and finished.elapsed_s:
            job.placement.latency.learn(job.rows, finished.elapsed_s)
        for start, stop in job.ranges:
            self._suspects.acquit(job.placement.member, start, stop)
        if not finished.all_predicted:
            self._requeue(job, self._unfinished(job))  # of an instance that was gone by then
        self._release(job)

    def _count(self, worker: WorkerState, job: OpenJob, finished: Finished) -> int:
        """Count a batch; cell by cell only if not all of its rows were simply predicted.

        Returns how many rows were predicted or failed: none if the batch was skipped, because none
        of its rows was needed any more.
        """
        member = job.placement.member
        predicted, failed = job.rows, 0
        if not finished.all_predicted:
            arena = self._arenas[member.arena]
            predicted = 0
            for start, stop in job.ranges:
                rows = arena.row_numbers(start, stop)
                done = arena.done[member.index, arena.slots(start, stop)]
                predicted += int((done == rows).sum())
                failed += int((done == -rows).sum())
        counters = self.member_counters[member.arena][member.index]
        counters.run(predicted, failed, job.opened - job.since, finished.elapsed_s)
        worker.counters[job.placement.instance].run(predicted + failed, finished.elapsed_s)
        return predicted + failed

    # -- reports of the supervisor ------------------------------------------------------------

    def started(self, name: str, incarnation: int) -> None:
        """A new process is being started for a device."""
        self.workers[name].incarnation = incarnation

    def reaped(self, name: str, executing: int) -> list[OpenJob]:
        """A worker is dead and reaped; `executing` is the job that it was running, 0 if none.

        Returns the jobs that it held: their unfinished rows are pending again.
        """
        worker = self.workers[name]
        worker.incarnation = 0
        worker.state.up = False
        now = time.monotonic()
        jobs = [job for id in list(worker.state.jobs) if (job := worker.state.close(id, now))]
        for job in reversed(jobs):
            self._requeue_unfinished(job, blamed=job.id == executing)
        for job in jobs:
            self._release(job)
        return jobs

    def _requeue_unfinished(self, job: OpenJob, *, blamed: bool) -> None:
        """Make a dead worker's unfinished rows pending again; report the finished ones."""
        member = job.placement.member
        unfinished = self._unfinished(job)
        self.predicted += [Predictions(member.arena, start, stop) for start, stop in job.ranges]
        self._requeue(job, self._blame(member, unfinished) if blamed else unfinished)

    def _requeue(self, job: OpenJob, rows: list[tuple[int, Flow]]) -> None:
        """Make some rows of a closed job pending again, as old as they are."""
        for row, flow in rows:
            job.placement.member.pending.append(row, row + 1, job.since, flow)

    def _unfinished(self, job: OpenJob) -> list[tuple[int, Flow]]:
        """The rows of a job that its member has not done and that are still needed."""
        member = job.placement.member
        return [
            (row, flow)
            for flow, ranges in job.shares
            for start, stop in ranges
            for row in self._needed(member, start, stop)
        ]

    def _needed(self, member: Member, start: int, stop: int) -> list[int]:
        """The rows that a member has not done and that are still needed."""
        arena = self._arenas[member.arena]
        slots, rows = arena.slots(start, stop), arena.row_numbers(start, stop)
        over = (
            (np.abs(arena.done[member.index, slots]) == rows)
            | (np.abs(arena.ended[slots]) == rows)
            | (arena.closing[slots] == rows)
            | (arena.row[slots] != rows)
        )
        return [int(row) for row in rows[~over]]

    def _blame(self, member: Member, rows: list[tuple[int, Flow]]) -> list[tuple[int, Flow]]:
        """Count a death against each row; isolate or fail the suspects and return the others.

        A suspect waits as if it had just arrived: it has had its turn.
        """
        others: list[tuple[int, Flow]] = []
        for row, flow in rows:
            match self._suspects.blame(member, row):
                case Verdict.FAILS:
                    why = f"its worker died {FAIL_AFTER} times on this row"
                    self._fail(member, row, row + 1, why)
                case Verdict.ALONE:
                    member.pending.isolate(row, time.monotonic(), flow)
                case Verdict.AGAIN:
                    others.append((row, flow))
        return others

    def _fail(self, member: Member, start: int, stop: int, why: str) -> None:
        """Mark rows as failed in the place of a worker that is gone."""
        arena = self._arenas[member.arena]
        arena.done[member.index, arena.slots(start, stop)] = -arena.row_numbers(start, stop)
        error = f"member {member.name!r} failed: {why}"
        self.predicted.append(Predictions(member.arena, start, stop, error))

    def give_up(self, name: str) -> None:
        """A worker keeps dying at its start: count on it no more until its next Hello."""
        self.workers[name].given_up = True
        self._update_served()
        self._fail_unserved()

    def _fail_unserved(self) -> None:
        """Fail the rows that wait for a member that no worker serves, or will again."""
        for member in self._all_members:
            while member.pending.rows and not self._served[member.arena] >> member.index & 1:
                for start, stop in member.pending.pop_batch(1024).ranges:
                    self._fail(member, start, stop, _NO_WORKER)

    def _update_served(self) -> None:
        self._served = dict.fromkeys(self.members, 0)
        for worker in self.workers.values():
            for instance, placement in worker.placements.items():
                if not worker.given_up and instance not in worker.failed:
                    self._served[placement.member.arena] |= 1 << placement.member.index
        self._available = {
            index: self._served[index]
            & ~sum(
                1 << member.index
                for member in members
                if member.name in self._without.get(index, ())
            )
            for index, members in self.members.items()
        }
        self.version += 1
