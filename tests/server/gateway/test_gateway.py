"""The gateway, the fleet and the combiner over a real arena, in any order of events.

Workers are played, messages go through queues that a restart may lose, and no time passes.
"""

import asyncio
import importlib
import tempfile
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from arenas import arena_spec, ensemble, mapped, open_arena
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import DeadlineExceeded, MemberFailed, QueueFull, RequestError, Unavailable
from server.front_end_spec import QueueLimits
from server.gateway.accepted import Bound, Request, ServedModel, Wish
from server.gateway.flows import HIGH
from server.gateway.gateway import Gateway
from workers.arena_combiner import ArenaCombiner
from workers.messages import (
    Close,
    CombinerHello,
    Deferred,
    Ended,
    Finished,
    Hello,
    Predicted,
    Predictions,
    ToCombiner,
)
from workers.scores import CLASS_SCORES
from workers.spec import InstanceSpec, ModelSignature, ModelSource, TensorSpec

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
    signature = ModelSignature((_X,), TensorSpec("output", "FP32", (2,)), 0)
    source = ModelSource(SPEC.members[member], "fake")
    return InstanceSpec(0, member, 2, source, signature, (), "probabilities")


class Stage:
    """A gateway whose loop, workers and combiner move only when they are told to."""

    def __init__(self, memory, sockets, loop):
        self.arena = open_arena(memory)
        self.memory = memory
        self.combiner = ArenaCombiner(0, open_arena(memory))
        self.to_combiner, self.to_front_end = deque(), deque()
        self.turns = deque()
        self.decode = msgspec.msgpack.Decoder(ToCombiner).decode
        self.ended: set[int] = set()
        self.requests = []
        self.gateway = gateway = Gateway(
            memory=memory,
            sockets=sockets,
            epoch=1,
            instances={d: tuple(map(instance, members)) for d, members in DEVICES.items()},
            workers=[(device, 1) for device in DEVICES],
            limits=QueueLimits(
                60.0, waiting_requests=2, waiting_rows=16, answer_bytes=ANSWER_BYTES
            ),
            loop=SimpleNamespace(
                create_future=loop.create_future,
                call_soon=self.call_soon,
                call_later=lambda _, function, *arguments: self.call_soon(function, *arguments),
            ),
        )
        self.close_sockets(gateway)
        self.fleet, self.ledger = gateway.fleet, gateway._ledger
        gateway._combiner = SimpleNamespace(send=lambda m: self.to_combiner.append(self.decode(m)))
        gateway._hear_workers = gateway._dispatching._on_sent = lambda: None
        self.jobs = {device: deque() for device in DEVICES}
        self.incarnation = dict.fromkeys(DEVICES, 1)
        self.fleet._send = self.assign
        for device in DEVICES:
            self.hello(device)
        gateway._on_combiner_hello(CombinerHello(1))
        gateway._open_if_idle()

    def close_sockets(self, gateway):
        for socket in (gateway._inbox, gateway._combiner, gateway.fleet.router):
            socket.close(0)

    def call_soon(self, function, *arguments):
        self.turns.append((function, arguments))

    def assign(self, worker, message):
        self.jobs[worker.state.name].extend(message.jobs)
        return True

    def hello(self, device):
        latencies = tuple((0.001, 0.002) for _ in DEVICES[device])
        self.fleet._on_hello(self.fleet.workers[device], Hello(1, 0, latencies))

    # -- what may happen

    def submit(self, model, rows, **wish):
        inputs = [(0, np.zeros((rows, 2), np.float32))]
        try:
            request = self.gateway.submit(model, Bound(inputs, rows, Wish(**wish)), arrived=0.0)
        except (QueueFull, Unavailable):
            return None
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
        member = DEVICES[device][job.instance]
        for start, stop in job.ranges:
            slots, rows = self.arena.slots(start, stop), self.arena.numbers(start, stop)
            np.testing.assert_array_equal(self.arena.row[slots], rows, "a row that is gone")
            first = 0.95 if how == SURE else 0.4 + member / 10
            self.arena.predictions[member][slots] = [first, 1 - first]
            self.arena.done[member, slots] = -rows if how == FAILS else rows
            self.to_combiner.append(Predicted((Predictions(0, start, stop),)))
        # The word of it comes to the front-end in some later turn.
        worker, incarnation = self.fleet.workers[device], self.incarnation[device]

        def finished():
            if self.incarnation[device] == incarnation:
                self.fleet._on_finished(worker, Finished(job.id, 0.001, how != FAILS), 0.0)
                self.gateway._dispatching.soon()

        self.call_soon(finished)

    def combine(self, count=1):
        """Let the combiner take in messages."""
        for _ in range(min(count, len(self.to_combiner))):
            message = self.to_combiner.popleft()
            if isinstance(message, Close):
                self.told(self.combiner.evaluate(message.start, message.stop))
            else:
                for item in message.ranges:
                    self.told(self.combiner.evaluate(item.start, item.stop, item.error))

    def scan(self):
        self.told(self.combiner.scan())

    def told(self, outcomes):
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
                    self.ledger.defer(deferred)
                case Ended() as ended:
                    self.ledger.settle(0, ended)

    def restart_combiner(self):
        """It dies; all that it was told, and part of what it said, is lost."""
        self.to_combiner.clear()
        self.to_front_end.clear()
        self.combiner = ArenaCombiner(0, open_arena(self.memory))
        self.gateway._on_combiner_hello(CombinerHello(1))

    def kill(self, device, *, for_good=False):
        """A worker dies and is started anew, perhaps in vain."""
        self.die(device)
        if for_good:
            self.gateway.worker_down(device)
        else:
            self.revive(device)

    def die(self, device):
        """A worker dies, and for now there is no other."""
        if self.fleet.workers[device].incarnation == 0:
            return
        jobs = self.jobs[device]
        self.gateway.worker_reaped(device, self.incarnation[device], jobs[0].id if jobs else 0)
        jobs.clear()
        self.incarnation[device] += 1

    def revive(self, device):
        if self.fleet.workers[device].incarnation == 0:
            self.gateway.worker_started(device, self.incarnation[device])
            self.hello(device)
            self.gateway._dispatching.soon()

    def close(self, number):
        if self.requests:
            request = self.requests[number % len(self.requests)]
            self.gateway.close(request, DeadlineExceeded("too late"))

    def finish(self):
        """Let everything go its way, and check what is left."""
        for _ in range(200):
            self.gateway._dispatching.soon()
            self.turn()
            for device in DEVICES:
                self.work(device, UNSURE)
            self.scan()
            self.combine(1000)
            self.hear(1000)
        for request in self.requests:
            assert request.future.done(), request
        assert not self.gateway.requests
        assert self.gateway.flights[0].slots.held == 0
        assert self.ledger._answers.held_bytes == 0
        assert all(member.pending.rows == 0 for member in self.fleet._all_members)
        assert all(owner is None for owner in self.gateway.flights[0]._owners)
        assert not self.combiner._reasons


@contextmanager
def on_stage():
    loop = asyncio.new_event_loop()
    with mapped(SPEC) as memory, tempfile.TemporaryDirectory(prefix="et-") as sockets:
        stage = Stage(memory, sockets, loop)
        try:
            yield stage
        finally:
            for request in stage.requests:
                if request.future.done():
                    request.future.exception()
            loop.close()


WISHES = (
    (ALL, {"class_only": True}),
    (SOME, {}),
    (SOME, {"class_only": True, "level": HIGH}),
    (UNEQUAL, {"class_only": True}),
    (SOME, {"members": 0b101, "masks": True}),
    (STAGED, {}),
    (STAGED, {"masks": True}),
    (STAGED, {"scores": True, "predictions": (0, 2)}),
)
small = st.integers(0, 7)
events = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), small, st.integers(1, 14)),
        st.tuples(
            st.sampled_from(["work", "work", "work", "kill", "down", "die", "revive"]), small, small
        ),
        st.tuples(
            st.sampled_from(["turn", "hear", "combine", "scan", "restart", "close"]), small, small
        ),
    ),
    max_size=80,
)


@given(events)
@settings(max_examples=200, deadline=None)
def test_every_request_is_answered_and_every_slot_comes_back(steps):
    with on_stage() as stage:
        for what, number, other in steps:
            device = ("d0", "d1")[number % 2]
            model, wish = WISHES[number]
            {
                "submit": lambda m=model, n=other, w=wish: stage.submit(m, n, **w),
                "work": lambda d=device, n=other: stage.work(d, (SURE, SURE, UNSURE, FAILS)[n % 4]),
                "kill": lambda d=device: stage.kill(d),
                "down": lambda d=device: stage.kill(d, for_good=True),
                "die": lambda d=device: stage.die(d),
                "revive": lambda d=device: stage.revive(d),
                "turn": stage.turn,
                "hear": lambda n=number: stage.hear(n + 1),
                "combine": lambda n=number: stage.combine(n + 1),
                "scan": stage.scan,
                "restart": stage.restart_combiner,
                "close": lambda n=number: stage.close(n),
            }[what]()
        for device, worker in stage.fleet.workers.items():
            if not worker.given_up:
                stage.revive(device)
        stage.finish()
        for request in stage.requests:
            error = request.future.exception()
            assert error is None or isinstance(error, RequestError)
            if isinstance(error, MemberFailed):
                assert "member  failed" not in str(error)


def test_an_early_end_that_nobody_told_of_leaves_no_row_waiting():
    with on_stage() as stage:
        stage.die("d0")
        request = stage.submit(ALL, 1, class_only=True)
        stage.turn()
        for _ in range(2):
            stage.work("d1", SURE)
            stage.turn()
        stage.combine(10)
        stage.restart_combiner()
        answer = request.future.result()
        assert (answer.used, answer.degraded, answer.saved) == (0b110, False, 1)
        assert [member.pending.rows for member in stage.fleet._all_members] == [0, 0, 0]


def test_a_row_that_a_late_verdict_ends_waits_for_no_further_stage():
    """A user's own rule may find a row sure that it did not find sure before."""
    with on_stage() as stage:
        stage.die("d1")
        request = stage.submit(STAGED, 1)
        stage.turn()
        stage.work("d0", UNSURE)
        stage.scan()
        stage.arena.predictions[0][:] = [0.95, 0.05]  # as if the rule had changed its mind
        stage.scan()
        stage.hear(1)
        stage.hear(1)
        assert request.future.result().used == 0b001
        stage.turn()
        assert not stage.jobs["d0"]


def test_the_best_class_is_not_certain_without_a_member_that_failed():
    with on_stage() as stage:
        stage.die("d1")
        request = stage.submit(UNEQUAL, 1, class_only=True)
        stage.turn()
        for how in (FAILS, SURE):
            stage.work("d0", how)
            stage.turn()
        stage.combine(10)
        stage.hear(10)
        assert not request.future.done()


def test_an_answer_without_a_member_that_is_down_is_degraded_though_it_is_certain():
    with on_stage() as stage:
        stage.kill("d0", for_good=True)
        request = stage.submit(UNEQUAL, 1, class_only=True)
        stage.turn()
        stage.work("d1", SURE)
        stage.combine(10)
        stage.hear(10)
        answer = request.future.result()
        assert (answer.used, answer.degraded) == (0b010, True)


def test_a_cascade_that_nobody_can_go_on_with_says_so():
    with on_stage() as stage:
        request = stage.submit(STAGED, 1)
        stage.turn()
        stage.work("d0", UNSURE)
        stage.turn()
        stage.kill("d0", for_good=True)
        stage.kill("d1", for_good=True)
        stage.combine(10)
        stage.hear(10)
        stage.combine(10)
        stage.hear(10)
        error = request.future.exception()
        assert isinstance(error, Unavailable)
        assert "quorum of 2" in str(error)


def test_members_of_later_stages_that_failed_are_named():
    with on_stage() as stage:
        request = stage.submit(STAGED, 1)
        for how in (UNSURE, FAILS, FAILS):
            stage.turn()
            stage.work("d0", how)
            stage.work("d1", how)
            stage.combine(10)
            stage.hear(10)
        error = request.future.exception()
        assert str(error) == "member 'b', 'c' failed on this input"


def test_a_deadline_that_passes_while_a_request_waits_for_slots():
    with on_stage() as stage:
        first = stage.submit(ALL, stage.arena.capacity)
        second = stage.submit(ALL, 3, timeout_s=60.0)
        room = stage.gateway.flights[0].room
        assert (second.claimed, room.requests) == (0, 1)
        stage.turn()  # on this stage timers are due at once
        assert isinstance(second.future.exception(), DeadlineExceeded)
        assert room.requests == 0
        stage.finish()
        assert first.future.result().rows == stage.arena.capacity


def test_workers_that_can_not_be_reached_get_their_jobs_when_they_say_hello():
    """A socket that takes no more refuses: nothing is dropped."""
    with on_stage() as stage:
        stage.fleet._send = lambda worker, message: False
        request = stage.submit(ALL, 5)
        stage.gateway._dispatching.soon()
        stage.turn()
        assert not any(worker.state.up for worker in stage.fleet.workers.values())
        assert not any(worker.state.jobs for worker in stage.fleet.workers.values())
        stage.fleet._send = stage.assign
        for device in DEVICES:
            stage.hello(device)
        stage.finish()
        assert request.future.result().rows == 5


def test_a_request_that_waited_for_space_does_not_wait_for_a_member_that_is_down_since():
    with on_stage() as stage:
        stage.submit(ALL, 12)
        assert stage.requests[0].claimed == 12, "the arena is full"
        waiting = [stage.submit(SOME, 3), stage.submit(ALL, 1)]
        assert [request.claimed for request in waiting] == [0, 0]
        stage.kill("d0", for_good=True)
        stage.finish()
        answer = waiting[0].future.result()
        assert (answer.used, answer.degraded) == (0b110, True)
        assert isinstance(waiting[1].future.exception(), MemberFailed)


def test_rows_of_a_member_that_is_being_restarted_leave_others_room():
    """Nor are the others kept waiting behind those that may have no more of the arena."""
    with on_stage() as stage:
        healthy = {"members": 0b110}
        stage.submit(SOME, 1, **healthy)
        stage.finish()
        stage.die("d0")
        flood = stage.submit(ALL, 14)
        assert flood.claimed == 8, "one segment of three is for the other model"
        for _ in range(5):
            others = [stage.submit(SOME, rows, **healthy) for rows in (6, 1)]
            assert [request.claimed for request in others] == [4, 0]
            for _ in range(20):
                stage.turn()
                stage.work("d1", SURE)
                stage.combine(10)
                stage.hear(10)
            assert [request.future.result().rows for request in others] == [6, 1]
        assert (flood.claimed, flood.future.done()) == (8, False)
        stage.revive("d0")
        stage.finish()
        assert flood.future.result().rows == 14


def test_answers_hold_no_more_than_they_may_while_they_are_put_together(monkeypatch):
    """But one that is alone may be larger."""
    monkeypatch.setattr("server.gateway.ledger.COUNTED_BYTES", 9)
    with on_stage() as stage:
        held = stage.ledger._answers
        large = stage.submit(ALL, 20)
        assert held.held_bytes == 20 * 8
        small = stage.submit(ALL, 1)
        assert held.held_bytes == 20 * 8, "too small to count"
        assert stage.submit(ALL, 2) is None
        stage.close(0)
        stage.finish()
        several = [stage.submit(ALL, 3) for _ in range(2)]
        assert held.held_bytes == 2 * 3 * 8
        assert stage.submit(ALL, 3, predictions=(0, 1)) is None, "that is three answers in one"
        stage.finish()
        assert [request.future.result().rows for request in (small, *several)] == [1, 3, 3]
        assert isinstance(large.future.exception(), DeadlineExceeded)


def test_requests_that_find_no_seat_are_before_nobody():
    with on_stage() as stage:
        stage.submit(ALL, 12)
        stage.turn()
        assert sum(stage.submit(ALL, 1) is not None for _ in range(100)) == 2, "there are 2 seats"
        outlooks = stage.ledger._forecast._outlooks.values()
        assert sum(outlook.accepted for outlook in outlooks) <= 2


def test_a_batch_that_was_skipped_does_not_tell_how_long_one_takes():
    """Else a device whose batches come too late seems to be quick, and more come too late."""
    with on_stage() as stage:
        stage.die("d1")
        stage.submit(SOME, 2, members=0b001)
        stage.turn()
        stage.close(0)
        stage.combine(10)
        job = stage.jobs["d0"].popleft()
        worker = stage.fleet.workers["d0"]
        latency = worker.placements[job.instance].latency
        before = latency.seconds(2)
        stage.fleet._on_finished(worker, Finished(job.id, 1e-6, flawless=False), 0.0)
        assert latency.seconds(2) == before
        stage.hear(10)
        stage.finish()


def failing_once(monkeypatch, where, *, after=False):
    """Let a function raise at its first call, before or after it has done its work."""
    calls = []
    module, name = where.rsplit(".", 1)
    function = getattr(importlib.import_module(module), name)

    def wrapped(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            if after:
                function(*arguments)
            raise RuntimeError("once")
        return function(*arguments)

    monkeypatch.setattr(where, wrapped)
    return calls


@pytest.mark.parametrize("after", [False, True])
def test_an_exception_while_batches_are_assembled_loses_no_row(monkeypatch, after):
    calls = failing_once(monkeypatch, "server.gateway.fleet.choose", after=after)
    with on_stage() as stage:
        request = stage.submit(ALL, 7)
        stage.gateway._dispatching.soon()
        with pytest.raises(RuntimeError, match="once"):  # which the event loop logs
            stage.turn()
        stage.finish()
        assert len(calls) > 1
        assert request.future.result().rows == 7


def test_an_exception_while_rows_are_settled_loses_no_row(monkeypatch, caplog):
    with on_stage() as stage:
        requests = [stage.submit(ALL, 2), stage.submit(SOME, 3)]
        take, calls = Request.take, []

        def fail_once(*arguments):
            calls.append(arguments)
            if len(calls) == 1:
                raise MemoryError("once")
            take(*arguments)

        monkeypatch.setattr(Request, "take", fail_once)
        stage.finish()
        assert [request.future.result().rows for request in requests] == [2, 3]
    assert "could not be settled" in caplog.text
