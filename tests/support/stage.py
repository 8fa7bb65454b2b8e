"""An engine on a stage: workers are played, messages go through queues, and no time passes.

The arenas, the fleet, the deployments and the combiner's eyes are the real ones; a restart may lose
messages, and deployments may come and go. What is predicted says in which generation.
"""

from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from arenas import arena_spec, ensemble, mapped
from ensembled_client.wire import CLASS_SCORES
from msgspec.structs import replace

from server.engine.engine import Engine
from server.engine.request import Answer, InferOptions, PreparedRequest
from server.engine.spec import QueueLimits, ServedModel
from server.errors import DeadlineExceeded, QueueFull, Unavailable
from server.front_end.changes import Changes
from server.inference.commands import Drained, Prepare, Prepared, Release, Switch
from server.inference.deployments import Deployments
from server.inference.spec import DeploymentSpec, InputSpec, ModelSpec, StoredView
from workers.combiner.arena_combiner import ArenaCombiner
from workers.runtime.arena import Arena, arena_bytes
from workers.runtime.memory import SharedMemory, add_range, cut_out
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
    GenerationSpec,
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


def instance(member, arena=0):
    signature = ModelSignature((_X,), (TensorSpec("output", "FP32", (2,)),), 0)
    source = ModelSource(SPEC.members[member], "fake")
    outputs = (OutputSpec(member, "probabilities"),)
    number = arena * len(SPEC.members) + member
    return InstanceSpec(arena, member, 2, source, signature, (), outputs, id=number)


def deployment(generation):
    """The same models as in every other generation, in an arena and by instances of its own."""
    (arena,) = generation.arenas
    return DeploymentSpec(
        generation,
        {d: tuple(instance(m, arena.index) for m in members) for d, members in DEVICES.items()},
        tuple(
            ModelSpec(
                ServedModel(arena.index, number, spec),
                (InputSpec(_X, (StoredView(0, 0b111),)),),
                arena.members,
            )
            for number, spec in enumerate(arena.ensembles)
        ),
    )


def said_generation(answer):
    """In which generation an answer was predicted, as far as that can be told: from 1 to 20.

    All that members predict are multiples of 0.12, so means of them are multiples of 0.02.
    """
    values = np.frombuffer(answer.values, np.float32).reshape(answer.rows, 2)
    said = set((np.round(values[:, 0] * 1000).astype(int) % 20 + 1).tolist())
    assert len(said) == 1, f"a mixture of generations {said}"
    return said.pop()


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
        self.memory = memory
        self.shared = SharedMemory(memory)
        self.arenas, self.combiners, self.generations = {}, {}, {}
        self.know(memory.generation)
        self.arena = self.arenas[0]
        self.to_front_end = deque()
        self.turns = deque()
        self.links = PlayedLinks()
        self.jobs, self.to_combiner = self.links.jobs, self.links.to_combiner
        self.ended: set[tuple[int, int]] = set()
        self.requests = []
        self.reports = []
        #: Whether a worker may get jobs for an instance that it has dropped.
        self.may_miss = False
        self.engine = engine = Engine(
            memory=self.shared,
            links=self.links,
            epoch=1,
            generation=memory.generation,
            instances=deployment(memory.generation).instances,
            workers=[(device, 1) for device in DEVICES],
            limits=QueueLimits(
                60.0, waiting_requests=2, waiting_rows=16, answer_bytes=ANSWER_BYTES
            ),
            loop=self,
        )
        self.fleet = engine.fleet
        self.deployments = Deployments(deployment(memory.generation), engine, 2)
        self.changes = Changes(
            SimpleNamespace(
                engine=engine,
                deployments=self.deployments,
                rollouts=SimpleNamespace(replace=lambda rollouts: None),
            ),
            self.reports.append,
            self,
        )
        self.loaded = {d: {instance(m).id for m in members} for d, members in DEVICES.items()}
        self.incarnation = dict.fromkeys(DEVICES, 1)
        for device in DEVICES:
            self.hello(device)
        engine._on_combiner_hello(CombinerHello(1))

    @property
    def combiner(self):
        return self.combiners[0]

    def know(self, generation):
        """The combiner, and the workers, map a generation's arena."""
        (spec,) = generation.arenas
        self.generations[generation.number] = generation
        self.arenas[spec.index] = Arena(self.shared.map(generation), spec)
        self.combiners[spec.index] = ArenaCombiner(Arena(self.shared.map(generation), spec))

    def call_soon(self, function, *arguments):
        self.turns.append((function, arguments))

    def call_later(self, _, function, *arguments):
        self.call_soon(function, *arguments)

    def hello(self, device):
        latencies = dict.fromkeys(self.loaded[device], (0.001, 0.002))
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
        index, member = divmod(job.instance, len(SPEC.members))
        is_there = job.instance in self.loaded[device]
        assert is_there or self.may_miss, "an instance that is not there"
        for start, stop in job.ranges if is_there else ():
            arena = self.arenas[index]
            slots, rows = arena.slots(start, stop), arena.row_numbers(start, stop)
            np.testing.assert_array_equal(arena.row[slots], rows, "a row that is gone")
            first = 0.001 * index + (0.96 if how == SURE else 0.36 + member * 0.12)
            arena.predictions[member][slots] = [first, 1 - first]
            arena.done[member, slots] = -rows if how == FAILS else rows
            self.to_combiner.append(Predicted((Predictions(index, start, stop),)))
        # The word of it comes to the front-end in some later turn.
        incarnation = self.incarnation[device]

        def finished():
            if self.incarnation[device] == incarnation:
                done = Finished(job.id, 0.001, is_there and how != FAILS)
                self.engine._on_worker_report(device, Ready(1, (done,)))
                self.engine._pipeline.pass_on()

        self.call_soon(finished)

    def combine(self, count=1):
        """Let the combiner take in messages."""
        for _ in range(min(count, len(self.to_combiner))):
            message = self.to_combiner.popleft()
            if isinstance(message, Close):
                self.evaluate(message.arena, message.start, message.stop)
            elif isinstance(message, Predicted):
                for item in message.ranges:
                    self.evaluate(item.arena, item.start, item.stop, item.error)

    def evaluate(self, arena, *rows):
        if arena in self.combiners:
            self.report(self.combiners[arena].evaluate(*rows))

    def scan(self):
        for combiner in self.combiners.values():
            self.report(combiner.scan())

    def report(self, outcomes):
        for outcome in outcomes:
            if isinstance(outcome, Ended):
                rows = {(outcome.arena, row) for row in range(outcome.start, outcome.stop)}
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
                    self.engine._pipeline.end(ended.arena, ended)

    def restart_combiner(self):
        """It dies; all that it was told, and part of what it said, is lost."""
        self.to_combiner.clear()
        self.to_front_end.clear()
        self.combiners = {index: ArenaCombiner(arena) for index, arena in self.arenas.items()}
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
            self.load(device)
            self.engine._pipeline.dispatch_soon()

    def close(self, number):
        if self.requests:
            request = self.requests[number % len(self.requests)]
            self.engine.close(request, DeadlineExceeded("too late"))

    # -- deployments that come and go

    def prepare(self):
        """A deployment like the others comes up: the front-end knows it, workers not yet."""
        number = max(self.generations) + 1
        offset, nbytes = add_range(self.memory.fd, arena_bytes(SPEC))
        generation = GenerationSpec(number, offset, nbytes, (replace(SPEC, index=number - 1),))
        self.know(generation)
        self.changes.execute(Prepare(deployment(generation)))

    def load(self, device):
        """A worker has loaded what there is, and says so."""
        present = [deployment(generation) for generation in self.generations.values()]
        self.loaded[device] = {one.id for spec in present for one in spec.instances[device]}
        self.hello(device)

    def switch(self):
        """The latest deployment is served, if it is prepared."""
        latest, current = max(self.generations), self.deployments.current.generation
        if latest > current and Prepared(latest) in self.reports:
            self.changes.execute(Switch(latest))

    def release(self, number):
        """A deployment that has drained, or is given up, goes; it may take a while."""
        current = self.deployments.current.generation
        if number in self.generations and (number > current or Drained(number) in self.reports):
            self.changes.execute(Release(number))

    def unload(self):
        """Workers and combiner drop what the front-end has released; its memory is gone."""
        for number in [one for one in self.generations if self.deployments.get(one) is None]:
            generation = self.generations.pop(number)
            (arena,) = generation.arenas
            del self.arenas[arena.index], self.combiners[arena.index]
            cut_out(self.memory.fd, generation.offset, generation.nbytes)
            for device, worker in self.fleet.workers.items():
                if worker.state.up:
                    self.load(device)

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
        assert not any(arena.slots.held for arena in self.engine.arenas.values())
        assert self.engine._admission._answers.held_bytes == 0
        assert all(member.pending.rows == 0 for member in self.fleet._all_members)
        for arena in self.engine.arenas.values():
            assert all(owner is None for owner in arena._owners)
        assert not any(combiner._errors for combiner in self.combiners.values())


@contextmanager
def on_stage():
    with mapped(SPEC) as memory:
        yield Stage(memory)
