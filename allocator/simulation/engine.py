"""The plain model: requests wait for their members, devices predict, all else takes no time.

Used within one simulation run: a scenario flows in, raw records flow out. All that happens at one
moment is taken in before anything is bound, as the front-end takes in all that is there.

Simplified against the server: rows of the arena become free one by one and not by segments; a
deadline withdraws nothing; rows that killed a worker are not blamed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from random import Random

from allocator.simulation.arrivals import ClosedLoop, Trace
from allocator.simulation.binding import Binder
from allocator.simulation.fleet import make_fleet
from allocator.simulation.jobs import DeviceState, Job
from allocator.simulation.records import Records
from allocator.simulation.rows import Rows
from allocator.simulation.scenario import Loss, Scenario
from allocator.simulation.timeline import SharedTimeline, Timeline

__all__ = ["Engine"]

#: With an end by requests: how many times as many of them come at most.
_BACKLOG = 10
#: How many requests a closed loop's or a rate's run has if nobody says, and how many each
#: connection has at least, so that the first ones, which all come at once, don't decide.
_REQUESTS = 10_000
_REQUESTS_EACH = 20


class Engine:
    """One run.

    Args:
        scenario: what to simulate.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._arrivals = scenario.arrivals
        self._arrival_random = Random(f"arrivals {scenario.seed}")
        self._mix_random = Random(f"mix {scenario.seed}")
        self._noise_random = Random(f"noise {scenario.seed}")
        self._noise = scenario.noise
        self.devices, self.instances = make_fleet(scenario)
        members = len(scenario.matrix.members)
        self._binder = Binder(self.instances, members, self.devices)
        self._timeline = self._make_timeline()
        self._learning = bool(self._noise) or isinstance(self._timeline, SharedTimeline)
        self.records = Records(self.devices, self.instances)
        self._make_rows()
        self._moments: Iterator[tuple[float, int]] = iter(())
        self._dispatch_due = False
        self._losses = dict.fromkeys((device.name for device in self.devices), 0)

    def _make_timeline(self) -> Timeline:
        host = self._scenario.host
        threads = sum(device.cores for device in self.devices)
        if host.cores and (host.has_processes or threads > host.cores):
            return SharedTimeline(host.cores)
        return Timeline()

    def _make_rows(self) -> None:
        scenario = self._scenario
        index = {name: position for position, name in enumerate(scenario.matrix.members)}
        self._subsets = [
            tuple(index[name] for name in ensemble.members) for ensemble in scenario.mix
        ] or [tuple(index.values())]
        self._weights = [ensemble.weight for ensemble in scenario.mix]
        self._rows = Rows()
        self._fresh: list[tuple[int, int, int]] = []  # (subset, start, stop), not yet pending
        self._room: float = math.inf if scenario.arena_rows is None else scenario.arena_rows
        self._waiting: deque[tuple[int, int, int]] = deque()  # request, rows not placed, subset
        self._rows_left: list[int] = []  # by request: rows not yet over
        self._one_row_each = not isinstance(self._arrivals, Trace) and self._arrivals.rows == 1

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> None:
        """Simulate to the end; `records` tells what happened."""
        timeline, records = self._timeline, self.records
        goal, warm = self._goal()
        limit = self._scenario.seconds or math.inf
        self._most = goal * _BACKLOG if limit == math.inf else math.inf
        self._open(warm, limit)
        while records.settled < goal and (now := timeline.next_time()) <= limit and now < math.inf:
            while True:
                call, payload = timeline.pop()
                call(payload)
                records.events += 1
                if timeline.next_time() > now:
                    break
            if self._fresh or self._dispatch_due:
                self._dispatch()
            if records.settled >= warm and records.window is None:
                records.open_window(timeline.now)
        at_limit = limit < math.inf and records.settled < goal
        records.close(limit if at_limit else timeline.now)

    def _goal(self) -> tuple[float, float]:
        """How many settled requests end the run, and how many end the warm-up."""
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
        """Take in requests of so many rows each: into the arena, or into the waiting room."""
        if self._room == math.inf and len(self._subsets) == 1:
            owners = requests if rows == 1 else [one for one in requests for _ in range(rows)]
            self._place(owners, 0)
            return
        for request in requests:
            self._accept_one(request, rows)

    def _accept_one(self, request: int, rows: int) -> None:
        subset = 0
        if self._weights:
            (subset,) = self._mix_random.choices(range(len(self._weights)), self._weights)
        piece = 0 if self._waiting else int(min(rows, self._room))
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
        """Number the rows of these requests, and let them wait from the next dispatch on."""
        start, stop = self._rows.add(owners, len(self._subsets[subset]))
        self._room -= stop - start
        fresh = self._fresh
        if fresh and fresh[-1][0] == subset:
            start = fresh.pop()[1]
        fresh.append((subset, start, stop))

    def _settle(self, owners: list[int]) -> None:
        """Rows of these requests are over: free their room, answer what is complete."""
        complete = owners
        if not self._one_row_each:
            complete = []
            left = self._rows_left
            for request in owners:
                left[request] -= 1
                if not left[request]:
                    complete.append(request)
        self._room += len(owners)
        while self._waiting and self._room:
            request, rows, subset = self._waiting.popleft()
            piece = int(min(rows, self._room))
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
        """What the front-end does once it has taken in all that is there."""
        self._dispatch_due = False
        now = self._timeline.now
        for subset, start, stop in self._fresh:
            for member in self._subsets[subset]:
                self._binder.pending.append(member, start, stop, now)
        self._fresh.clear()
        for job in self._binder.bind(now):
            device = job.instance.device
            device.queue.append(job)
            if not device.running:
                device.flushed = now
                self._start(device)

    def _start(self, device: DeviceState) -> None:
        seconds = device.queue[0].seconds
        if self._noise:
            # The mean of the factor is 1.
            normal = self._noise_random.gauss(0.0, 1.0)
            seconds *= math.exp(self._noise * (normal - self._noise / 2))
        device.started = self._timeline.now
        device.running = self._timeline.work(seconds, self._finish, device, device.cores, True)

    def _finish(self, device: DeviceState) -> None:
        """A device has run a job."""
        job = device.queue.popleft()
        elapsed_s = self._timeline.now - device.started
        device.busy_s += elapsed_s
        job.instance.jobs += 1
        job.instance.rows += job.rows
        if self._learning:
            job.instance.costs.learn(elapsed_s / job.seconds)
        device.running = 0
        if device.queue:
            self._start(device)
        self._report(device, job)

    def _report(self, device: DeviceState, job: Job) -> None:
        self._binder.close(device, self._timeline.now)
        self._dispatch_due = True
        self._settle(self._rows.count(job.ranges))

    def _lose(self, loss: Loss) -> None:
        """A device fails: the rows of its unfinished jobs wait again, before all others."""
        for device in self.devices:
            if device.name != loss.device:
                continue
            if device.up:
                self._binder.set_up(device, up=False)
                self._take_back(device)
            self._losses[device.name] += 1
            if loss.back_after_s is not None:
                self._timeline.at(self._timeline.now + loss.back_after_s, self._return, device)

    def _take_back(self, device: DeviceState) -> None:
        now = self._timeline.now
        if device.running:
            self._timeline.cancel(device.running)
            device.running = 0
            device.busy_s += now - device.started
        while device.open:
            self._binder.close(device, now)
        for job in reversed(device.queue):
            self._binder.pending.put_back(job)
        device.queue.clear()
        self._dispatch_due = True

    def _return(self, device: DeviceState) -> None:
        self._losses[device.name] -= 1
        if not self._losses[device.name]:
            self._binder.set_up(device, up=True)
            self._dispatch_due = True
