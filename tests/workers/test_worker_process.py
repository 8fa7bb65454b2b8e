"""A real worker process, with the test in the place of front-end, combiner and supervisor."""

import os
import subprocess
import sys
import tempfile

import msgspec
import numpy as np
import pytest
import zmq
from arenas import arena_spec, claim, mapped, open_arena, vector
from serving import wait_for

from workers.channels import COMBINER, WORKERS, open_socket
from workers.memory import SharedMemory
from workers.messages import Assign, Hello, Job, Predicted, Predictions, Ready, Reset, encode
from workers.queues import Queues
from workers.spec import (
    Binding,
    DeviceSpec,
    FakeOptions,
    InstanceSpec,
    ModelSignature,
    ModelSource,
    TensorSpec,
    WorkerSpec,
)

pytestmark = pytest.mark.process

IDENTITY = b"cpu:0/7"
_decode = msgspec.msgpack.Decoder(Hello).decode
_decode_ready = msgspec.msgpack.Decoder(Ready).decode
_decode_predicted = msgspec.msgpack.Decoder(Predicted).decode


class Bench:
    """The worker's peers."""

    def __init__(self, directory, memory):
        source = ModelSource("b", "fake", fake=FakeOptions({"x": (2,)}, 2, add=1.0))
        signature = ModelSignature((TensorSpec("x", "FP32", (2,)),), vector(2), 0)
        instance = InstanceSpec(0, 1, 8, source, signature, (Binding(0),), "values")
        cores = tuple(sorted(os.sched_getaffinity(0))[:1])
        device = DeviceSpec("cpu:0", "cpu-1", 1 << 30, cores)
        spec = WorkerSpec(device, 7, (instance,), memory, directory)
        queues = Queues(SharedMemory(memory).buffer, memory.queues)
        self.assigned = queues.assigned["cpu:0"]
        self.finished = queues.finished["cpu:0"]
        self.predicted = queues.predicted["cpu:0"]
        self.bell = queues.bell("worker cpu:0", lambda: self.router.send_multipart((IDENTITY, b"")))
        self.router = open_socket(zmq.ROUTER, directory, WORKERS, bind=True)
        self.combiner = open_socket(zmq.PULL, directory, COMBINER, bind=True)
        for socket in (self.router, self.combiner):
            socket.rcvtimeo = 30_000
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.predictor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(memory.fd, *memory.queues.bells),
        )
        self.process.stdin.write(msgspec.json.encode(spec) + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b'{"type":"Started"}\n'

    def reset(self, epoch):
        self.router.send_multipart((IDENTITY, encode(Reset(epoch))))

    def assign(self, message, incarnation=7):
        assert self.assigned.push(encode(message), incarnation)
        self.bell.ring_if_needed()

    def receive(self):
        """The next Hello; idle workers say it again and again."""
        while True:
            identity, payload = self.router.recv_multipart()
            assert identity == IDENTITY
            if payload:
                return _decode(payload)

    def ready(self):
        """What is said next of jobs that are over."""
        records = wait_for(lambda: self.finished.pop(1), "a word of the worker")
        assert records[0][0] == 7
        return _decode_ready(records[0][1])

    def close(self):
        self.process.stdin.close()  # the supervisor lets go
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.router.close()
            self.combiner.close()


@pytest.fixture(params=["eventfd", "zmq"])
def memory(request):
    with mapped(arena_spec(), bell=request.param) as memory:
        yield memory


@pytest.fixture
def bench(memory):
    with tempfile.TemporaryDirectory(prefix="et-") as directory:  # a socket's path must be short
        bench = Bench(directory, memory)
        try:
            yield bench
        finally:
            status = bench.close()
        assert status == 0


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
