"""The engine and the combiner over a real arena, in any order of events.

Workers are played, messages go through queues that a restart may lose, and no time passes.
"""

import importlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import ALL, DEVICES, FAILS, SOME, STAGED, SURE, UNEQUAL, UNSURE, on_stage

from allocator.dispatch.flows import HIGH
from server.engine.request import Request
from server.errors import DeadlineExceeded, MemberFailed, RequestError, Unavailable
from workers.runtime.messages import Finished, Ready

OPTIONS = (
    (ALL, {"class_only": True}),
    (SOME, {}),
    (SOME, {"class_only": True, "priority": HIGH}),
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
            model, options = OPTIONS[number]
            {
                "submit": lambda m=model, n=other, o=options: stage.submit(m, n, **o),
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
            error = request.on_done.exception()
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
        answer = request.on_done.result()
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
        assert request.on_done.result().used == 0b001
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
        assert not request.on_done.done()


def test_an_answer_without_a_member_that_is_down_is_degraded_though_it_is_certain():
    with on_stage() as stage:
        stage.kill("d0", for_good=True)
        request = stage.submit(UNEQUAL, 1, class_only=True)
        stage.turn()
        stage.work("d1", SURE)
        stage.combine(10)
        stage.hear(10)
        answer = request.on_done.result()
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
        error = request.on_done.exception()
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
        error = request.on_done.exception()
        assert str(error) == "member 'b', 'c' failed on this input"


def test_a_deadline_that_passes_while_a_request_waits_for_slots():
    with on_stage() as stage:
        first = stage.submit(ALL, stage.arena.capacity)
        second = stage.submit(ALL, 3, timeout_s=60.0)
        queue = stage.engine.arenas[0].queue
        assert (second.claimed, queue.requests) == (0, 1)
        stage.turn()  # on this stage timers are due at once
        assert isinstance(second.on_done.exception(), DeadlineExceeded)
        assert queue.requests == 0
        stage.finish()
        assert first.on_done.result().rows == stage.arena.capacity


def test_workers_that_can_not_be_reached_get_their_jobs_when_they_say_hello():
    """A ring that is full refuses: nothing is dropped."""
    with on_stage() as stage:
        stage.links.can_send = False
        request = stage.submit(ALL, 5)
        stage.engine._pipeline.dispatch_soon()
        stage.turn()
        assert not any(worker.state.up for worker in stage.fleet.workers.values())
        assert not any(worker.state.jobs for worker in stage.fleet.workers.values())
        stage.links.can_send = True
        for device in DEVICES:
            stage.hello(device)
        stage.finish()
        assert request.on_done.result().rows == 5


def test_a_request_that_waited_for_space_does_not_wait_for_a_member_that_is_down_since():
    with on_stage() as stage:
        stage.submit(ALL, 12)
        assert stage.requests[0].claimed == 12, "the arena is full"
        waiting = [stage.submit(SOME, 3), stage.submit(ALL, 1)]
        assert [request.claimed for request in waiting] == [0, 0]
        stage.kill("d0", for_good=True)
        stage.finish()
        answer = waiting[0].on_done.result()
        assert (answer.used, answer.degraded) == (0b110, True)
        assert isinstance(waiting[1].on_done.exception(), MemberFailed)


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
            assert [request.on_done.result().rows for request in others] == [6, 1]
        assert (flood.claimed, flood.on_done.done()) == (8, False)
        stage.revive("d0")
        stage.finish()
        assert flood.on_done.result().rows == 14


def test_answers_hold_no_more_than_they_may_while_they_are_put_together(monkeypatch):
    """But one that is alone may be larger."""
    monkeypatch.setattr("server.engine.engine.COUNTED_BYTES", 9)
    with on_stage() as stage:
        held = stage.engine._admission._answers
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
        assert [request.on_done.result().rows for request in (small, *several)] == [1, 3, 3]
        assert isinstance(large.on_done.exception(), DeadlineExceeded)


def test_requests_that_find_no_seat_are_before_nobody():
    with on_stage() as stage:
        stage.submit(ALL, 12)
        stage.turn()
        assert sum(stage.submit(ALL, 1) is not None for _ in range(100)) == 2, "there are 2 seats"
        outlooks = stage.engine._admission._forecast._outlooks.values()
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
        stage.fleet.ready("d0", Ready(1, (Finished(job.id, 1e-6, all_predicted=False),)), 0.0)
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
    calls = failing_once(monkeypatch, "server.engine.fleet.bind", after=after)
    with on_stage() as stage:
        request = stage.submit(ALL, 7)
        stage.engine._pipeline.dispatch_soon()
        with pytest.raises(RuntimeError, match="once"):  # which the event loop logs
            stage.turn()
        stage.finish()
        assert len(calls) > 1
        assert request.on_done.result().rows == 7


def test_an_exception_while_answers_are_collected_loses_no_row(monkeypatch, caplog):
    with on_stage() as stage:
        requests = [stage.submit(ALL, 2), stage.submit(SOME, 3)]
        store, calls = Request.store, []

        def fail_once(*arguments):
            calls.append(arguments)
            if len(calls) == 1:
                raise MemoryError("once")
            store(*arguments)

        monkeypatch.setattr(Request, "store", fail_once)
        stage.finish()
        assert [request.on_done.result().rows for request in requests] == [2, 3]
    assert "could not be collected" in caplog.text


def test_nothing_is_before_a_request_once_those_that_waited_were_closed():
    with on_stage() as stage:
        stage.die("d0")
        stage.die("d1")
        stage.submit(SOME, 3)
        stage.turn()
        stage.submit(SOME, 1)
        assert stage.engine._admission.has_pending(0)
        stage.close(0)
        stage.close(1)
        assert not stage.engine._admission.has_pending(0)
        for device in DEVICES:
            stage.revive(device)
        stage.finish()
