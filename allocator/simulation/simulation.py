"""The plain model: requests wait for their members, devices predict, all else takes no time.

Used within one simulation run: a scenario flows in, raw records flow out. Jobs are given out by the
server's own policy (`allocator.dispatch`), which is called once all that happens at one moment is
known, as in the front-end.

Simplified against the server: rows of the arena become free one by one and not by segments; all
requests are one flow; a deadline withdraws nothing; rows that killed a worker are not isolated.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from random import Random

from allocator.dispatch.flows import NORMAL, Flows
from allocator.dispatch.policy import bind
from allocator.dispatch.state import OpenJob, requeue
from allocator.simulation.arrivals import ClosedLoop, Trace
from allocator.simulation.figures import Records, Rows
from allocator.simulation.scenario import Loss, Scenario
from allocator.simulation.timeline import SharedTimeline, Timeline
from allocator.simulation.workers import SimulatedWorker, make_fleet

__all__ = ["Simulation"]

#: With an end by requests: how many times as many of them come at most.
_BACKLOG = 10
#: How many requests a closed loop's or a rate's run has by default, and how many each connection
#: has at least, so that the first ones, which all come at once, don't decide.
_REQUESTS = 10_000
_REQUESTS_EACH = 20


class Simulation:
    """One run; workers are by device."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._arrivals = scenario.arrivals
        self._arrival_random = Random(f"arrivals {scenario.seed}")
        self._mix_random = Random(f"mix {scenario.seed}")
        self._stage_random = Random(f"stages {scenario.seed}")
        self._noise_random = Random(f"noise {scenario.seed}")
        self._noise = scenario.noise
        self._members, self.workers = make_fleet(scenario)
        self._flow = Flows().get("", NORMAL)
        self._next_job = 1
        self._timeline = self._make_timeline()
        self._learning = bool(self._noise) or isinstance(self._timeline, SharedTimeline)
        self.records = Records(list(self.workers.values()))
        self._make_rows()
        self._moments: Iterator[tuple[float, int]] = iter(())
        self._dispatch_due = False
        self._losses = dict.fromkeys(self.workers, 0)

    def _make_timeline(self) -> Timeline:
        host = self._scenario.host
        threads = sum(worker.cores for worker in self.workers.values())
        if host.cores and (host.has_processes or threads > host.cores):
            return SharedTimeline(host.cores)
        return Timeline()

    def _make_rows(self) -> None:
        scenario = self._scenario
        index = {name: position for position, name in enumerate(scenario.matrix.members)}
        stages = [(ensemble.members, ensemble.later) for ensemble in scenario.mix]
        stages = stages or [(tuple(index), ())]
        self._weights = [ensemble.weight for ensemble in scenario.mix]
        self._named = self._subsets_of_trace()
        #: By subset of the members, of which the first ones are for requests that come: the share
        #: of its rows that goes on to another one, and which one that is.
        self._next: list[tuple[float, int]] = []
        self._subsets: list[tuple[int, ...]] = []
        for names, later in stages:  # grows: the later stages of each follow
            self._subsets.append(tuple(index[name] for name in names))
            self._next.append((later[0].share, len(stages)) if later else (0.0, 0))
            if later:
                stages.append((later[0].members, later[1:]))
        self._has_cascades = any(share for share, _ in self._next)
        self._rows = Rows()
        self._fresh: list[tuple[int, int, int]] = []  # (subset, start, stop), not yet pending
        self._free_rows: float = math.inf if scenario.arena_rows is None else scenario.arena_rows
        self._waiting: deque[tuple[int, int, int]] = deque()  # request, rows not placed, subset
        self._rows_left: list[int] = []  # by request: rows not yet over
        self._one_row_each = not isinstance(self._arrivals, Trace) and self._arrivals.rows == 1

    def _subsets_of_trace(self) -> list[int]:
        """Which ensemble of the mix each request is for, if the trace says it."""
        if not isinstance(self._arrivals, Trace):
            return []
        position = {one.name: subset for subset, one in enumerate(self._scenario.mix)}
        return [position[name] for name in self._arrivals.models]

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> None:
        """Simulate to the end; the result is in `records`."""
        timeline, records = self._timeline, self.records
        goal, warm = self._goal()
        limit = self._scenario.seconds or math.inf
        self._most = goal * _BACKLOG if limit == math.inf else math.inf
        self._open(warm, limit)
        while records.over < goal and (now := timeline.next_time()) <= limit and now < math.inf:
            while True:
                call, payload = timeline.pop()
                call(payload)
                records.events += 1
                if timeline.next_time() > now:
                    break
            if self._fresh or self._dispatch_due:
                self._dispatch()
            if records.over >= warm and records.window is None:
                records.open_window(timeline.now)
        at_limit = limit < math.inf and records.over < goal
        records.close(limit if at_limit else timeline.now)

    def _goal(self) -> tuple[float, float]:
        """How many answered or refused requests end the run, and how many the warm-up."""
        scenario, arrivals = self._scenario, self._arrivals
        if scenario.requests is not None:
            goal = scenario.requests
        elif isinstance(arrivals, Trace):
            return math.inf, math.floor(len(arrivals.requests) * scenario.warm_up)
        elif scenario.seconds is not None:
            return math.inf, math.inf
        else:
            goal = _REQUESTS
            if isinstance(arrivals, ClosedLoop):
                goal = max(goal, arrivals.connections * _REQUESTS_EACH)
        return goal, math.floor(goal * scenario.warm_up)

    def _open(self, warm: float, limit: float) -> None:
        scenario, timeline = self._scenario, self._timeline
        if not (warm and scenario.warm_up):
            self.records.open_window(0.0)
        elif limit < math.inf:
            timeline.at(limit * scenario.warm_up, self._open_window)
        for loss in scenario.losses:
            timeline.at(loss.at_s, self._lose, loss)
        if isinstance(self._arrivals, ClosedLoop):
            timeline.at(0.0, self._send, self._arrivals.connections)
        else:
            self._moments = self._arrivals.moments(self._arrival_random)
            self._expect_next()

    def _open_window(self, _: None) -> None:
        if self.records.window is None:
            self.records.open_window(self._timeline.now)

    # -- requests -----------------------------------------------------------------------------

    def _expect_next(self) -> None:
        moment = next(self._moments, None)
        # Where more come than can be answered, the queue would outgrow everything.
        if moment is not None and len(self._rows_left) < self._most:
            self._timeline.at(moment[0], self._come, moment[1])

    def _come(self, rows: int) -> None:
        """A request of an open loop comes."""
        self._arrive(1, rows)
        self._expect_next()

    def _send(self, count: int) -> None:
        """Some clients of a closed loop send their next request."""
        assert isinstance(self._arrivals, ClosedLoop)
        self._arrive(count, self._arrivals.rows)

    def _arrive(self, count: int, rows: int) -> None:
        first = self.records.add(count, rows, self._timeline.now)
        self._rows_left.extend([rows] * count)
        self._accept(range(first, first + count), rows)

    def _accept(self, requests: range, rows: int) -> None:
        """Admit requests of so many rows each: to the arena, or to the admission queue."""
        if self._free_rows == math.inf and len(self._subsets) == 1:
            owners = requests if rows == 1 else [one for one in requests for _ in range(rows)]
            self._place(owners, 0)
            return
        for request in requests:
            self._accept_one(request, rows)

    def _accept_one(self, request: int, rows: int) -> None:
        subset = 0
        if self._named:
            subset = self._named[request]
        elif self._weights:
            (subset,) = self._mix_random.choices(range(len(self._weights)), self._weights)
        piece = 0 if self._waiting else int(min(rows, self._free_rows))
        most = self._scenario.max_waiting
        if piece == 0 and most is not None and len(self._waiting) >= most:
            self._refuse()
            return
        if piece:
            self._place([request] * piece, subset)
        if piece < rows:
            self._waiting.append((request, rows - piece, subset))

    def _refuse(self) -> None:
        self.records.refuse()
        if isinstance(self._arrivals, ClosedLoop):
            self._timeline.at(self._timeline.now + self._arrivals.retry_s, self._send, 1)

    def _place(self, owners: Sequence[int], subset: int) -> None:
        """Place the rows of these requests in the arena."""
        self._free_rows -= len(owners)
        self._enqueue(owners, subset)

    def _enqueue(self, owners: Sequence[int], subset: int) -> None:
        """Number the rows of these requests; they are pending from the next dispatch on."""
        if self._has_cascades:
            owners = [owner * len(self._subsets) + subset for owner in owners]
        start, stop = self._rows.add(owners, len(self._subsets[subset]))
        fresh = self._fresh
        if fresh and fresh[-1][0] == subset:
            start = fresh.pop()[1]
        fresh.append((subset, start, stop))

    def _advance(self, owners: list[int]) -> list[int]:
        """Rows were predicted by all members they asked: the owners of those that are over now.

        The others go on to the next stage of their cascade.
        """
        if not self._has_cascades:
            return owners
        over, further = [], defaultdict[int, list[int]](list)
        for encoded in owners:
            owner, subset = divmod(encoded, len(self._subsets))
            share, after = self._next[subset]
            if share and self._stage_random.random() < share:
                further[after].append(owner)
            else:
                over.append(owner)
        for subset, staying in further.items():
            self._enqueue(staying, subset)
        return over

    def _end_rows(self, owners: list[int]) -> None:
        """Rows of these requests are over: free their slots, answer what is complete."""
        complete = owners
        if not self._one_row_each:
            complete = []
            left = self._rows_left
            for request in owners:
                left[request] -= 1
                if not left[request]:
                    complete.append(request)
        self._free_rows += len(owners)
        while self._waiting and self._free_rows:
            request, rows, subset = self._waiting.popleft()
            piece = int(min(rows, self._free_rows))
            self._place([request] * piece, subset)
            if piece < rows:
                self._waiting.append((request, rows - piece, subset))
        if complete:
            self._answer(complete)

    def _answer(self, requests: list[int]) -> None:
        self.records.answer(requests, self._timeline.now)
        if isinstance(self._arrivals, ClosedLoop):
            if self._arrivals.think_s:
                again = self._timeline.now + self._arrivals.think_s
                self._timeline.at(again, self._send, len(requests))
            else:
                self._send(len(requests))

    # -- devices ------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give out jobs, all that happens at this moment being known."""
        self._dispatch_due = False
        now = self._timeline.now
        for subset, start, stop in self._fresh:
            for member in self._subsets[subset]:
                self._members[member].pending.append(start, stop, now, self._flow)
        self._fresh.clear()
        jobs = bind(self._members, self._next_job, now)
        self._next_job += len(jobs)
        for job in jobs:
            worker = self.workers[job.placement.device.name]
            worker.queue.append(job)
            if not worker.running:
                worker.flushed = now
                self._start(worker)

    def _start(self, worker: SimulatedWorker) -> None:
        job = worker.queue[0]
        seconds = worker.instances[job.placement.instance].costs.seconds(job.rows)
        if self._noise:
            # The mean of the factor is 1.
            normal = self._noise_random.gauss(0.0, 1.0)
            seconds *= math.exp(self._noise * (normal - self._noise / 2))
        worker.started = self._timeline.now
        worker.running = self._timeline.work(seconds, self._finish, worker, worker.cores, True)

    def _finish(self, worker: SimulatedWorker) -> None:
        """A worker has run a job."""
        job = worker.queue.popleft()
        elapsed_s = self._timeline.now - worker.started
        worker.busy_s += elapsed_s
        instance = worker.instances[job.placement.instance]
        instance.jobs += 1
        instance.rows += job.rows
        if self._learning:
            job.placement.latency.learn(job.rows, elapsed_s)
        worker.running = 0
        if worker.queue:
            self._start(worker)
        self._report(worker, job)

    def _report(self, worker: SimulatedWorker, job: OpenJob) -> None:
        worker.state.close(job.id, self._timeline.now)
        self._dispatch_due = True
        self._end_rows(self._advance(self._rows.count(job.ranges)))

    def _lose(self, loss: Loss) -> None:
        """A device fails: the rows of its unfinished jobs wait again, before all others."""
        worker = self.workers.get(loss.device)
        if worker is None:
            return
        if worker.state.up:
            worker.state.up = False
            self._stop(worker)
        self._losses[loss.device] += 1
        if loss.back_after_s is not None:
            self._timeline.at(self._timeline.now + loss.back_after_s, self._return, worker)

    def _stop(self, worker: SimulatedWorker) -> None:
        now = self._timeline.now
        if worker.running:
            self._timeline.cancel(worker.running)
            worker.running = 0
            worker.busy_s += now - worker.started
        for job in list(worker.state.jobs):
            worker.state.close(job, now)
        for lost in reversed(worker.queue):
            requeue(lost)
        worker.queue.clear()
        self._dispatch_due = True

    def _return(self, worker: SimulatedWorker) -> None:
        self._losses[worker.state.name] -= 1
        if not self._losses[worker.state.name]:
            worker.state.up = True
            self._dispatch_due = True
