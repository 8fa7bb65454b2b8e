"""The workers as the front-end sees them: what each holds, and what becomes of it.

Runs in the front-end. Rows go in, and what workers and the supervisor say of them; jobs come out,
and news for the engine. A range is handed out again only after the worker that held it was reaped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from server.engine.batching import PendingRanges, Range, merge
from server.engine.dispatch import choose
from server.engine.fleet_state import (
    ArenaRange,
    DeviceState,
    Hold,
    Latency,
    Member,
    OpenJob,
    Placement,
)
from server.engine.flows import Flow
from server.engine.statistics import MemberCounters
from server.engine.suspects import FAIL_AFTER, Suspects, Verdict
from workers.runtime.arena import Arena
from workers.runtime.messages import Finished, Hello, Predictions, Ready
from workers.runtime.spec import InstanceSpec

__all__ = ["Fleet", "Worker"]

_NOBODY = "no worker can serve it"


class Worker:
    """A device's worker: its present incarnation, and the dispatcher's picture of it.

    Attributes:
        incarnation: 0 if no process is there.
        given_up: whether the supervisor has called it down: it keeps dying at its start.
    """

    def __init__(self, name: str) -> None:
        self.state = DeviceState(name)
        self.incarnation = 0
        self.given_up = False
        self.placements: list[Placement] = []


class Fleet:
    """All workers, and the rows that wait for them.

    Args:
        arenas: by index.
        instances: by device, in the order the worker knows them.

    Attributes:
        members: by arena and index.
        workers: by device.
        version: changes whenever other members are up.
        settled: rows that the combiner should look at; whoever tells it empties the list.
        released: rows that no job holds any longer; whoever frees them empties the list.
    """

    def __init__(
        self,
        *,
        arenas: Sequence[Arena],
        instances: dict[str, tuple[InstanceSpec, ...]],
    ) -> None:
        self._arenas = arenas
        self.version = 0
        self.settled: list[Predictions] = []
        self.released: list[ArenaRange] = []
        self._next_job = 1
        self._suspects = Suspects()
        self.members: list[list[Member]] = [
            [
                Member(name, index, position, PendingRanges(arena.spec.segment_rows))
                for position, name in enumerate(arena.spec.members)
            ]
            for index, arena in enumerate(arenas)
        ]
        self._served = [(1 << len(members)) - 1 for members in self.members]
        self._all_members = [member for members in self.members for member in members]
        self.workers = {name: self._make_worker(name, specs) for name, specs in instances.items()}

    def _make_worker(self, name: str, specs: Sequence[InstanceSpec]) -> Worker:
        worker = Worker(name)
        for index, spec in enumerate(specs):
            member = self.members[spec.arena][spec.member]
            placement = Placement(worker.state, index, member, Latency(spec.batch))
            member.placements.append(placement)
            worker.placements.append(placement)
        return worker

    # -- rows ---------------------------------------------------------------------------------

    def available(self, arena: int, mask: int) -> int:
        """Those of the members in `mask` that some worker serves, or will again."""
        return mask & self._served[arena]

    def enqueue(self, arena: int, mask: int, ranges: list[Range], now: float, flow: Flow) -> None:
        """Let rows of a flow wait for the members in `mask`.

        A member that has gone down since they were accepted fails on them at once.
        """
        merged = merge(ranges, self._arenas[arena].spec.segment_rows)
        for member in self.members[arena]:
            if mask >> member.index & 1:
                for start, stop in merged:
                    if member.given_up:
                        self._fail(member, start, stop, _NOBODY)
                    else:
                        member.pending.append(start, stop, now, flow)

    def withdraw(self, arena: int, start: int, stop: int) -> int:
        """Remove rows from every list they still wait in; how many predictions that saves."""
        saved = 0
        for member in self.members[arena]:
            saved += member.pending.withdraw(start, stop)
            self._suspects.acquit(member, start, stop)
        return saved

    def hold(self, arena: int, start: int, stop: int) -> bool:
        """Whether open jobs hold any of these rows; if so, they are released with the last one."""
        jobs = [
            job
            for worker in self.workers.values()
            for job in worker.state.jobs.values()
            if job.placement.member.arena == arena
            and any(first < stop and start < last for first, last in job.ranges)
        ]
        hold = Hold((arena, start, stop), len(jobs))
        for job in jobs:
            job.holds.append(hold)
        return bool(jobs)

    def _close_job(self, job: OpenJob) -> None:
        for hold in job.holds:
            hold.jobs -= 1
            if hold.jobs == 0:
                self.released.append(hold.rows)

    def counters(self, arena: int, member: int) -> MemberCounters:
        """What a member of an arena has done."""
        return self.members[arena][member].counters

    # -- dispatch -----------------------------------------------------------------------------

    def dispatch(self, now: float) -> list[OpenJob]:
        """Bind what can be bound to devices, and return it; the caller sends it."""
        try:
            chosen = choose(self._all_members, self._next_job, now)
        except Exception:
            self._unbind_unsent(now)
            raise
        self._next_job += len(chosen)
        return chosen

    def awaits_ready(self, worker: Worker) -> bool:
        """Whether something goes on as soon as a worker has finished a job."""
        for placement in worker.placements:
            if placement.member.pending.rows:
                return True
        return any([job.holds for job in worker.state.jobs.values()])

    def not_sent(self, device: str, jobs: list[OpenJob], now: float) -> None:
        """A worker could not be sent these jobs: it gets nothing until it says Hello again."""
        worker = self.workers[device]
        worker.state.up = False
        self._unbind(worker, jobs, now)

    def _unbind(self, worker: Worker, jobs: list[OpenJob], now: float) -> None:
        """Let the rows of jobs wait again that the worker was not told of."""
        for job in reversed(jobs):
            worker.state.close(job.id, now)
            for flow, ranges in job.shares:
                for start, stop in ranges:
                    job.placement.member.pending.append(start, stop, job.since, flow)

    def _unbind_unsent(self, now: float) -> None:
        """Forget what was bound just now: not all of it could be."""
        for worker in self.workers.values():
            jobs = [job for job in worker.state.jobs.values() if job.id >= self._next_job]
            self._unbind(worker, jobs, now)

    # -- what workers say ---------------------------------------------------------------------

    def hello(self, device: str, message: Hello) -> None:
        """A worker is idle, and takes jobs."""
        worker = self.workers[device]
        if not worker.state.up:
            worker.state.up = True
            worker.given_up = False
            for placement, latencies in zip(worker.placements, message.latencies, strict=True):
                placement.latency.warm_up(*latencies)
            self._refresh_given_up()
        now = time.monotonic()
        for job in [job for job in worker.state.jobs if job <= message.finished]:
            self._finish(worker, Finished(job, 0.0), now)

    def ready(self, device: str, message: Ready, now: float) -> None:
        """A worker has finished jobs, and has room for more."""
        worker = self.workers[device]
        for finished in message.finished:
            self._finish(worker, finished, now)

    def _finish(self, worker: Worker, finished: Finished, now: float) -> None:
        """A job is over; after an unknown time if that is told as zero."""
        job = worker.state.close(finished.job, now)
        if job is None:
            return
        if self._count(job, finished) and finished.elapsed_s:
            job.placement.latency.learn(job.rows, finished.elapsed_s)
        for start, stop in job.ranges:
            self._suspects.acquit(job.placement.member, start, stop)
        self._close_job(job)

    def _count(self, job: OpenJob, finished: Finished) -> int:
        """Count a batch; cell by cell only if not all of its rows were simply predicted.

        Returns:
            How many rows were predicted or failed: none if the batch was skipped, because nobody
            wanted it any more.
        """
        member = job.placement.member
        predicted, failed = job.rows, 0
        if not finished.flawless:
            arena = self._arenas[member.arena]
            predicted = 0
            for start, stop in job.ranges:
                rows = arena.numbers(start, stop)
                done = arena.done[member.index, arena.slots(start, stop)]
                predicted += int((done == rows).sum())
                failed += int((done == -rows).sum())
        member.counters.run(predicted, failed, job.opened - job.since, finished.elapsed_s)
        job.placement.counters.run(predicted + failed, finished.elapsed_s)
        return predicted + failed

    # -- what the supervisor says -------------------------------------------------------------

    def started(self, name: str, incarnation: int) -> None:
        """A new process is being started for a device."""
        self.workers[name].incarnation = incarnation

    def reaped(self, name: str, executing: int) -> list[OpenJob]:
        """A worker is dead and waited for.

        Args:
            name: of its device.
            executing: the job that it was running, 0 if none.

        Returns:
            The jobs that it held: their unfinished rows wait again.
        """
        worker = self.workers[name]
        worker.incarnation = 0
        worker.state.up = False
        now = time.monotonic()
        jobs = [job for id in list(worker.state.jobs) if (job := worker.state.close(id, now))]
        for job in reversed(jobs):
            self._take_back(job, blamed=job.id == executing)
        for job in jobs:
            self._close_job(job)
        return jobs

    def _take_back(self, job: OpenJob, *, blamed: bool) -> None:
        """Let a dead worker's unfinished rows wait again; wake the combiner for the finished."""
        member = job.placement.member
        unfinished = [
            (row, flow)
            for flow, ranges in job.shares
            for start, stop in ranges
            for row in self._unfinished(member, start, stop)
        ]
        self.settled += [Predictions(member.arena, start, stop) for start, stop in job.ranges]
        if blamed:
            unfinished = self._blame(member, unfinished)
        for row, flow in unfinished:
            member.pending.append(row, row + 1, job.since, flow)

    def _unfinished(self, member: Member, start: int, stop: int) -> list[int]:
        """The rows that a member has not settled, and somebody still waits for."""
        arena = self._arenas[member.arena]
        slots, rows = arena.slots(start, stop), arena.numbers(start, stop)
        over = (
            (np.abs(arena.done[member.index, slots]) == rows)
            | (np.abs(arena.ended[slots]) == rows)
            | (arena.closing[slots] == rows)
            | (arena.row[slots] != rows)
        )
        return [int(row) for row in rows[~over]]

    def _blame(self, member: Member, rows: list[tuple[int, Flow]]) -> list[tuple[int, Flow]]:
        """Count a death against each row; isolate or fail the suspects and return the others.

        A suspect waits as if it had just come: it has had its turn.
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
        """Mark rows as failed in the place of a worker that is reaped."""
        arena = self._arenas[member.arena]
        arena.done[member.index, arena.slots(start, stop)] = -arena.numbers(start, stop)
        error = f"member {member.name!r} failed: {why}"
        self.settled.append(Predictions(member.arena, start, stop, error))

    def gave_up(self, name: str) -> None:
        """A worker keeps dying at its start: don't wait for it until it says Hello."""
        self.workers[name].given_up = True
        self._refresh_given_up()
        for member in self._all_members:
            while member.given_up and member.pending.rows:
                for start, stop in member.pending.take(1024).ranges:
                    self._fail(member, start, stop, _NOBODY)

    def _refresh_given_up(self) -> None:
        given_up = {id(worker.state) for worker in self.workers.values() if worker.given_up}
        for member in self._all_members:
            member.given_up = all(
                id(placement.device) in given_up for placement in member.placements
            )
        self._served = [
            sum(1 << member.index for member in members if not member.given_up)
            for members in self.members
        ]
        self.version += 1
