"""A real worker process, with the test in the place of front-end, combiner and supervisor."""

import signal

import msgspec
import numpy as np
import pytest
from arenas import arena_spec, claim, mapped, open_arena
from worker_bench import hello_of, working

from workers.runtime.messages import Assign, Hello, Job, Predicted, Predictions, Ready

pytestmark = pytest.mark.process

_decode = msgspec.msgpack.Decoder(Hello | Ready).decode
_decode_ready = msgspec.msgpack.Decoder(Ready).decode
_decode_predicted = msgspec.msgpack.Decoder(Predicted).decode


@pytest.fixture(params=["eventfd", "zmq"])
def memory(request):
    with mapped(arena_spec(), bell=request.param) as memory:
        yield memory


@pytest.fixture
def bench(memory):
    with working(memory) as bench:
        yield bench


def test_a_worker_predicts_tells_and_forgets_a_former_front_end(bench, memory):
    arena = open_arena(memory)
    first = bench.receive()
    assert (first.epoch, first.finished, len(first.latencies)) == (0, 0, 1)
    bench.reset(1)
    assert hello_of(bench, 1).finished == 0

    claim(arena, 160, 168, expected=0b010)
    bench.assign(Assign(1, (Job(41, 0, ((160, 162),)), Job(42, 0, ((164, 165), (167, 168))))))
    told = []
    while len(told) < 3:  # the combiner is awake: no bell is rung
        for _, payload in bench.predicted.pop():
            told += _decode_predicted(payload).ranges
    assert told == [Predictions(0, 160, 162), Predictions(0, 164, 165), Predictions(0, 167, 168)]
    finished = []
    while len(finished) < 2:
        ready = bench.ready()
        assert ready.epoch == 1
        finished += [one.job for one in ready.finished]
    assert finished == [41, 42]
    predicted = [160, 161, 164, 167]
    assert arena.done[1, :8].tolist() == [row if row in predicted else 0 for row in range(160, 168)]
    for row in predicted:
        np.testing.assert_array_equal(arena.predictions[1][row - 160], [row + 1, row + 1])
    assert hello_of(bench, 1).finished == 42, "while it is idle it repairs what was lost"

    bench.reset(2)
    assert hello_of(bench, 2).finished == 0, "the new front-end numbers its jobs anew"
    bench.assign(Assign(1, (Job(43, 0, ((162, 163),)),)))  # late words of the former one
    bench.assign(Assign(2, (Job(44, 0, ((165, 166),)),)), incarnation=6)  # for the former worker
    bench.assign(Assign(2, (Job(1, 0, ((163, 164),)),)))
    assert [one.job for one in bench.ready().finished] == [1]
    assert arena.done[1, 2:4].tolist() == [0, 163]


def test_what_has_no_room_in_a_ring_goes_over_zeromq(bench, memory):
    arena = open_arena(memory)
    claim(arena, 160, 162, expected=0b010)
    bench.receive()
    bench.reset(1)
    hello_of(bench, 1)
    for ring in (bench.finished, bench.predicted):  # nobody reads them
        while ring.push(b"unread"):
            pass
    bench.assign(Assign(1, (Job(1, 0, ((160, 162),)),)))
    while isinstance(message := _decode(bench.router.recv_multipart()[1]), Hello):
        pass
    assert [one.job for one in message.finished] == [1]
    assert _decode_predicted(bench.combiner.recv()).ranges == (Predictions(0, 160, 162),)


@pytest.mark.parametrize(
    ("killed_at", "is_done", "has_told"),
    [
        pytest.param(2, False, False, id="jobs read, but not taken out"),
        pytest.param(3, True, False, id="end of the job written, but not told"),
        pytest.param(4, True, True, id="end told, predictions not"),
        pytest.param(0, True, True, id="all told, the bell not rung"),
    ],
)
def test_a_worker_killed_at_the_worst_moment_confuses_no_successor(
    memory, killed_at, is_done, has_told
):
    arena = open_arena(memory)
    claim(arena, 160, 164, expected=0b010)
    with working(memory, killed_at=killed_at, ends_with=-signal.SIGKILL) as bench:
        bench.receive()
        bench.reset(1)
        hello_of(bench, 1)
        bench.assign(Assign(1, (Job(1, 0, ((160, 162),)),)))
        bench.process.wait(30)
    assert arena.done[1, :2].tolist() == ([160, 161] if is_done else [0, 0])
    with working(memory, incarnation=8) as bench:
        bench.receive()
        bench.reset(1)
        assert hello_of(bench, 1).finished == 0
        bench.assign(Assign(1, (Job(2, 0, ((162, 164),)),)))
        if has_told:
            ((tag, payload),) = bench.finished.pop(1)
            assert (tag, [one.job for one in _decode_ready(payload).finished]) == (7, [1])
        assert [one.job for one in bench.ready().finished] == [2]
        assert arena.done[1, :4].tolist() == [*arena.done[1, :2].tolist(), 162, 163]
    assert arena.done[1, :2].tolist() == ([160, 161] if is_done else [0, 0]), "nobody did it again"
