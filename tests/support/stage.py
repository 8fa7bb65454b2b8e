"""An engine on a stage: workers are played, messages go through queues, and no time passes.

The arena, the fleet and the combiner's eyes are the real ones; a restart may lose messages.
"""

from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from arenas import arena_spec, ensemble, mapped, open_arena
from ensembled_client.wire import CLASS_SCORES

from server.engine.engine import Engine
from server.engine.request import Answer, InferOptions, PreparedRequest
from server.engine.spec import QueueLimits, ServedModel
from server.errors import DeadlineExceeded, QueueFull, Unavailable
from workers.combiner.arena_combiner import ArenaCombiner
from workers.runtime.memory import SharedMemory
from workers.runtime.messages import (
    Close,
    CombinerHello,
    Deferred,
    Ended,
    Finished,
    Hello,
    Predicted,
    Predictions,
    Ready,
)
from workers.runtime.spec import (
    InstanceSpec,
    ModelSignature,
    ModelSource,
    OutputSpec,
    TensorSpec,
)

STAGES = {"stages": (0b001, 0b011, 0b111), "thresholds": (0.9, 0.8)}
SPEC = arena_spec(
    segments=3,
    segment_rows=4,
    ensembles=(
        ensemble("all", (0, 1, 2), scores=CLASS_SCORES),
        ensemble("some", (0, 1, 2), scores=CLASS_SCORES, quorum=1),
        ensemble("staged", (0, 1, 2), scores=CLASS_SCORES, quorum=2, **STAGES),
        ensemble("unequal", (0, 1, 2), rule="weighted_mean", weights=(1.5, 2.0, 1.0), quorum=2),
    ),
)
ALL, SOME, STAGED, UNEQUAL = (ServedModel(0, i, spec) for i, spec in enumerate(SPEC.ensembles))
DEVICES = {"d0": (0, 1, 2), "d1": (1, 2)}
_X = TensorSpec("x", "FP32", (2,))
ANSWER_BYTES = 100
SURE, UNSURE, FAILS = range(3)


def instance(member):
    signature = ModelSignature((_X,), (TensorSpec("output", "FP32", (2,)),), 0)
    source = ModelSource(SPEC.members[member], "fake")
    outputs = (OutputSpec(member, "probabilities"),)
    return InstanceSpec(0, member, 2, source, signature, (), outputs, id=member)


class Outcome:
    """What becomes of a request; it is told once."""

    def __init__(self):
        self._told = []

    def __call__(self, outcome):
        assert not self._told, "an outcome is told once"
        self._told.append(outcome)

    def done(self):
        return bool(self._told)

    def exception(self):
        (outcome,) = self._told
        return None if isinstance(outcome, Answer) else outcome

    def result(self):
        (outcome,) = self._told
        assert isinstance(outcome, Answer), outcome
        return outcome


class PlayedLinks:
    """Links whose other ends are played."""

    def __init__(self):
        self.jobs = {device: deque() for device in DEVICES}
        self.to_combiner = deque()
        self.can_send = True

    def started(self, device, incarnation):
        pass

    def forget(self, device):
        pass

    def assign(self, device, message):
        if self.can_send:
            self.jobs[device].extend(message.jobs)
        return len(message.jobs) if self.can_send else 0

    def want_ready(self, device, wanted):
        pass

    def receive(self):
        return []

    def send_to_combiner(self, message):
        self.to_combiner.append(message)


class Stage:
    """An engine whose loop, workers and combiner move only when they are told to."""

    def __init__(self, memory):
        self.arena = open_arena(memory)
        self.memory = memory
        self.combiner = ArenaCombiner(open_arena(memory))
        self.to_front_end = deque()
        self.turns = deque()
        self.links = PlayedLinks()
        self.jobs, self.to_combiner = self.links.jobs, self.links.to_combiner
        self.ended: set[int] = set()
        self.requests = []
        self.engine = engine = Engine(
            memory=SharedMemory(memory),
            links=self.links,
            epoch=1,
            generation=memory.generation,
            instances={d: tuple(map(instance, members)) for d, members in DEVICES.items()},
            workers=[(device, 1) for device in DEVICES],
            limits=QueueLimits(
                60.0, waiting_requests=2, waiting_rows=16, answer_bytes=ANSWER_BYTES
            ),
            loop=SimpleNamespace(
                call_soon=self.call_soon,
                call_later=lambda _, function, *arguments: self.call_soon(function, *arguments),
            ),
        )
        self.fleet = engine.fleet
        self.incarnation = dict.fromkeys(DEVICES, 1)
        for device in DEVICES:
            self.hello(device)
        engine._on_combiner_hello(CombinerHello(1))

    def call_soon(self, function, *arguments):
        self.turns.append((function, arguments))

    def hello(self, device):
        latencies = dict.fromkeys(DEVICES[device], (0.001, 0.002))
        self.engine._on_worker_report(device, Hello(1, 0, latencies))

    # -- what may happen

    def submit(self, model, rows, **options):
        inputs, outcome = [(0, memoryview(bytes(rows * 8)))], Outcome()
        try:
            request = self.engine.submit(
                PreparedRequest(model, InferOptions(**options)), inputs, rows, outcome, arrived=0.0
            )
        except (QueueFull, Unavailable):
            assert not outcome.done()
            return None
        assert not outcome.done(), "not within `submit`"
        self.requests.append(request)
        return request

    def turn(self):
        """A turn of the front-end's event loop."""
        for _ in range(len(self.turns)):
            function, arguments = self.turns.popleft()
            function(*arguments)

    def work(self, device, how):
        """Let a worker do its first job: its answer is sure, or not, or none."""
        if not self.jobs[device]:
            return
        job = self.jobs[device].popleft()
        member = job.instance
        for start, stop in job.ranges:
            slots, rows = self.arena.slots(start, stop), self.arena.row_numbers(start, stop)
            np.testing.assert_array_equal(self.arena.row[slots], rows, "a row that is gone")
            first = 0.95 if how == SURE else 0.4 + member / 10
            self.arena.predictions[member][slots] = [first, 1 - first]
            self.arena.done[member, slots] = -rows if how == FAILS else rows
            self.to_combiner.append(Predicted((Predictions(0, start, stop),)))
        # The word of it comes to the front-end in some later turn.
        incarnation = self.incarnation[device]

        def finished():
            if self.incarnation[device] == incarnation:
                done = Finished(job.id, 0.001, how != FAILS)
                self.engine._on_worker_report(device, Ready(1, (done,)))
                self.engine._pipeline.pass_on()

        self.call_soon(finished)

    def combine(self, count=1):
        """Let the combiner take in messages."""
        for _ in range(min(count, len(self.to_combiner))):
            message = self.to_combiner.popleft()
            if isinstance(message, Close):
                self.report(self.combiner.evaluate(message.start, message.stop))
            elif isinstance(message, Predicted):
                for item in message.ranges:
                    self.report(self.combiner.evaluate(item.start, item.stop, item.error))

    def scan(self):
        self.report(self.combiner.scan())

    def report(self, outcomes):
        for outcome in outcomes:
            if isinstance(outcome, Ended):
                rows = set(range(outcome.start, outcome.stop))
                assert not rows & self.ended, "ended twice"
                self.ended |= rows
            self.to_front_end.append(outcome)

    def hear(self, count=1):
        """Let the front-end take in what the combiner has said."""
        for _ in range(min(count, len(self.to_front_end))):
            match self.to_front_end.popleft():
                case Deferred() as deferred:
                    self.engine._pipeline.defer(deferred)
                case Ended() as ended:
                    self.engine._pipeline.end(0, ended)

    def restart_combiner(self):
        """It dies; all that it was told, and part of what it said, is lost."""
        self.to_combiner.clear()
        self.to_front_end.clear()
        self.combiner = ArenaCombiner(open_arena(self.memory))
        self.engine._on_combiner_hello(CombinerHello(1))

    def kill(self, device, *, for_good=False):
        """A worker dies and is started anew, perhaps in vain."""
        self.die(device)
        if for_good:
            self.engine.worker_down(device)
        else:
            self.revive(device)

    def die(self, device):
        """A worker dies, and for now there is no other."""
        if self.fleet.workers[device].incarnation == 0:
            return
        jobs = self.jobs[device]
        self.engine.worker_reaped(device, self.incarnation[device], jobs[0].id if jobs else 0)
        jobs.clear()
        self.incarnation[device] += 1

    def revive(self, device):
        if self.fleet.workers[device].incarnation == 0:
            self.engine.worker_started(device, self.incarnation[device])
            self.hello(device)
            self.engine._pipeline.dispatch_soon()

    def close(self, number):
        if self.requests:
            request = self.requests[number % len(self.requests)]
            self.engine.close(request, DeadlineExceeded("too late"))

    def finish(self):
        """Let everything go its way, and check what is left."""
        for _ in range(200):
            self.engine._pipeline.dispatch_soon()
            self.turn()
            for device in DEVICES:
                self.work(device, UNSURE)
            self.scan()
            self.combine(1000)
            self.hear(1000)
        for request in self.requests:
            assert request.on_done.done(), request
        assert not self.engine.requests
        assert self.engine.arenas[0].slots.held == 0
        assert self.engine._admission._answers.held_bytes == 0
        assert all(member.pending.rows == 0 for member in self.fleet._all_members)
        assert all(owner is None for owner in self.engine.arenas[0]._owners)
        assert not self.combiner._errors


@contextmanager
def on_stage():
    with mapped(SPEC) as memory:
        yield Stage(memory)
