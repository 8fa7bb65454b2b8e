"""A real worker process, with the test in the place of front-end, combiner and supervisor."""

import os
import subprocess
import tempfile

import msgspec
import numpy as np
import pytest
import zmq
from arenas import arena_spec, claim, mapped, open_arena, vector

from workers.channels import COMBINER, WORKERS, open_socket
from workers.child_process import child_command
from workers.messages import Assign, Hello, Job, Predicted, Predictions, Ready, Reset, encode
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
_decode = msgspec.msgpack.Decoder(Hello | Ready).decode
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
        self.router = open_socket(zmq.ROUTER, directory, WORKERS, bind=True)
        self.combiner = open_socket(zmq.PULL, directory, COMBINER, bind=True)
        for socket in (self.router, self.combiner):
            socket.rcvtimeo = 30_000
        reader, status = os.pipe()
        self.status = os.fdopen(reader, "rb")
        self.process = subprocess.Popen(
            child_command("workers.predictor", status, 2),
            stdin=subprocess.PIPE,
            pass_fds=(memory.fd, status),
        )
        os.close(status)
        self.process.stdin.write(msgspec.json.encode(spec) + b"\n")
        self.process.stdin.flush()
        assert self.status.readline() == b'{"type":"Started"}\n'

    def send(self, message):
        self.router.send_multipart((IDENTITY, encode(message)))

    def receive(self, kind):
        """The next message of that kind; idle workers say Hello again and again."""
        while True:
            identity, payload = self.router.recv_multipart()
            assert identity == IDENTITY
            message = _decode(payload)
            if isinstance(message, kind):
                return message

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


@pytest.fixture
def memory():
    with mapped(arena_spec()) as memory:
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
    while (hello := bench.receive(Hello)).epoch != epoch:
        pass
    return hello


def test_a_worker_predicts_tells_and_forgets_a_former_front_end(bench, memory):
    arena = open_arena(memory)
    first = bench.receive(Hello)
    assert (first.epoch, first.finished, len(first.latencies)) == (0, 0, 1)
    bench.send(Reset(1))
    assert hello_of(bench, 1).finished == 0

    claim(arena, 160, 168, expected=0b010)
    bench.send(Assign(1, (Job(41, 0, ((160, 162),)), Job(42, 0, ((164, 165), (167, 168))))))
    told = []
    while len(told) < 3:
        told += _decode_predicted(bench.combiner.recv()).ranges
    assert told == [Predictions(0, 160, 162), Predictions(0, 164, 165), Predictions(0, 167, 168)]
    finished = []
    while len(finished) < 2:
        ready = bench.receive(Ready)
        assert ready.epoch == 1
        finished += [one.job for one in ready.finished]
    assert finished == [41, 42]
    predicted = [160, 161, 164, 167]
    assert arena.done[1, :8].tolist() == [row if row in predicted else 0 for row in range(160, 168)]
    for row in predicted:
        np.testing.assert_array_equal(arena.predictions[1][row - 160], [row + 1, row + 1])
    assert hello_of(bench, 1).finished == 42, "while it is idle it repairs what was lost"

    bench.send(Reset(2))
    assert hello_of(bench, 2).finished == 0, "the new front-end numbers its jobs anew"
    bench.send(Assign(1, (Job(43, 0, ((162, 163),)),)))  # late words of the former one
    bench.send(Assign(2, (Job(1, 0, ((163, 164),)),)))
    assert [one.job for one in bench.receive(Ready).finished] == [1]
    assert arena.done[1, 2:4].tolist() == [0, 163]
