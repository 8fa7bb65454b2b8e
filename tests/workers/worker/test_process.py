"""A real worker process, with the test in the place of front-end, combiner and supervisor."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from arenas import arena_spec, claim, mapped, open_arena, vector
from serving import wait_for

from workers.runtime.child_process import child_command
from workers.runtime.memory import SharedMemory
from workers.runtime.messages import (
    Assign,
    Hello,
    Job,
    Predicted,
    Predictions,
    Ready,
    Reset,
    encode,
)
from workers.runtime.queues import Queues
from workers.runtime.sockets import COMBINER, WORKERS, open_socket
from workers.runtime.spec import (
    Binding,
    DeviceSpec,
    FakeOptions,
    InstanceSpec,
    Load,
    ModelSignature,
    ModelSource,
    OutputSpec,
    TensorSpec,
    WorkerSpec,
)

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.process

KILLED = """
import os, signal, sys
from workers.runtime import queues, rings
from workers.worker import process as predictor

left = int(sys.argv[3])

def fence():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

rings.fence = fence
if not left:
    queues.Bell.is_needed = lambda bell: os.kill(os.getpid(), signal.SIGKILL)
predictor.main()
"""
_decode = msgspec.msgpack.Decoder(Hello | Ready).decode
_decode_ready = msgspec.msgpack.Decoder(Ready).decode
_decode_predicted = msgspec.msgpack.Decoder(Predicted).decode


class Bench:
    """The worker's peers."""

    def __init__(self, directory, memory, incarnation=7, killed_at=None):
        self.incarnation = incarnation
        self.identity = f"cpu:0/{incarnation}".encode()
        source = ModelSource("b", "fake", fake=FakeOptions({"x": (2,)}, 2, add=1.0))
        signature = ModelSignature((TensorSpec("x", "FP32", (2,)),), (vector(2),), 0)
        instance = InstanceSpec(
            0, 1, 8, source, signature, (Binding(0),), (OutputSpec(1, "values"),)
        )
        cores = tuple(sorted(os.sched_getaffinity(0))[:1])
        device = DeviceSpec("cpu:0", "cpu-1", 1 << 30, cores)
        spec = WorkerSpec(
            device, incarnation, (Load(memory.generation, (instance,)),), memory, directory
        )
        queues = Queues(SharedMemory(memory).buffer, memory.queues)
        self.assigned = queues.assigned["cpu:0"]
        self.finished = queues.finished["cpu:0"]
        self.predicted = queues.predicted["cpu:0"]
        self.bell = queues.bell(
            "worker cpu:0", lambda: self.router.send_multipart((self.identity, b""))
        )
        self.router = open_socket(zmq.ROUTER, directory, WORKERS, bind=True)
        self.combiner = open_socket(zmq.PULL, directory, COMBINER, bind=True)
        for socket in (self.router, self.combiner):
            socket.rcvtimeo = 30_000
        reader, status = os.pipe()
        self.status = os.fdopen(reader, "rb")
        command = child_command("workers.worker.process", status, 2)
        if killed_at is not None:
            command = [sys.executable, "-c", KILLED, str(status), "2", str(killed_at)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            pass_fds=(memory.fd, *memory.queues.bells, status),
        )
        os.close(status)
        self.process.stdin.write(msgspec.json.encode(spec) + b"\n")
        self.process.stdin.flush()
        assert self.status.readline() == b'{"type":"Started"}\n'

    def reset(self, epoch):
        self.router.send_multipart((self.identity, encode(Reset(epoch))))

    def assign(self, message, incarnation=None):
        assert self.assigned.push(encode(message), incarnation or self.incarnation)
        self.bell.ring_if_needed()

    def receive(self):
        """The next Hello; idle workers say it again and again."""
        while True:
            identity, payload = self.router.recv_multipart()
            assert identity == self.identity
            if payload:
                return _decode(payload)

    def ready(self):
        """What is said next of jobs that are over."""
        records = wait_for(lambda: self.finished.pop(1), "a word of the worker")
        assert records[0][0] == self.incarnation
        return _decode_ready(records[0][1])

    def close(self):
        self.process.stdin.close()  # the supervisor lets go
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self.status.close()
            self.router.close()
            self.combiner.close()


@pytest.fixture(params=["eventfd", "zmq"])
def memory(request):
    with mapped(arena_spec(), bell=request.param) as memory:
        yield memory


@contextmanager
def working(memory, *, ends_with=0, **options):
    with tempfile.TemporaryDirectory(prefix="et-") as directory:  # a socket's path must be short
        bench = Bench(directory, memory, **options)
        try:
            yield bench
        finally:
            status = bench.close()
        assert status == ends_with


@pytest.fixture
def bench(memory):
    with working(memory) as bench:
        yield bench


def hello_of(bench, epoch):
    while (hello := bench.receive()).epoch != epoch:
        pass
    return hello


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
