"""A real worker process, with the test in the place of front-end, combiner and supervisor."""

from __future__ import annotations

import itertools
import os
import select
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zmq
from arenas import claim, vector
from serving import wait_for

from workers.runtime.child_process import child_command
from workers.runtime.memory import SharedMemory
from workers.runtime.messages import Assign, Hello, Job, Ready, Reset, encode
from workers.runtime.queues import Queues
from workers.runtime.sockets import COMBINER, WORKERS, open_socket
from workers.runtime.spec import (
    Binding,
    DeviceSpec,
    FakeOptions,
    InstanceSpec,
    Load,
    Loaded,
    ModelSignature,
    ModelSource,
    OutputSpec,
    TensorSpec,
    Unloaded,
    WorkerSpec,
)

ROOT = Path(__file__).parents[2]

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
_decode_report = msgspec.json.Decoder(Loaded | Unloaded).decode


def fake_source(**options):
    """A fake member `b` of two numbers, which it adds 1 to."""
    return ModelSource("b", "fake", fake=FakeOptions({"x": (2,)}, 2, **{"add": 1.0, **options}))


def instance_of(source, *, number=0, arena=0, batch=8):
    """An instance of a member of two numbers, which is the second one of its arena."""
    signature = ModelSignature((TensorSpec("x", "FP32", (2,)),), (vector(2),), 0)
    outputs = (OutputSpec(1, "values"),)
    return InstanceSpec(arena, 1, batch, source, signature, (Binding(0),), outputs, id=number)


class Bench:
    """The worker's peers; it starts with an instance of each source, and more `loads`."""

    def __init__(self, directory, memory, *, incarnation=7, killed_at=None, sources=None, loads=()):
        self.incarnation = incarnation
        self.identity = f"cpu:0/{incarnation}".encode()
        self.jobs = itertools.count(1)
        instances = tuple(
            instance_of(one, number=i) for i, one in enumerate(sources or [fake_source()])
        )
        cores = tuple(sorted(os.sched_getaffinity(0))[:1])
        device = DeviceSpec("cpu:0", "cpu-1", 1 << 30, cores)
        spec = WorkerSpec(
            device, incarnation, (Load(memory.generation, instances), *loads), memory, directory
        )
        shared = SharedMemory(memory)
        self.board = shared.board("worker cpu:0")
        queues = Queues(shared.buffer, memory.queues)
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

    def command(self, command):
        """What the supervisor says."""
        self.process.stdin.write(msgspec.json.encode(command) + b"\n")
        self.process.stdin.flush()

    def has_reported(self):
        """Whether there is a report to read."""
        return bool(select.select([self.status], [], [], 0)[0])

    def report(self):
        """What is reported next."""
        return _decode_report(self.status.readline())

    def predict(self, arena, start, stop, *, instance):
        """Have an instance predict rows, as a front-end does; what is said of the job."""
        claim(arena, start, stop, expected=0b010)
        job = next(self.jobs)
        self.assign(Assign(1, (Job(job, instance, ((start, stop),)),)))
        (finished,) = self.ready().finished
        assert finished.job == job
        return finished

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


@contextmanager
def working(memory, *, ends_with=0, **options):
    with tempfile.TemporaryDirectory(prefix="et-") as directory:  # a socket's path must be short
        bench = Bench(directory, memory, **options)
        try:
            yield bench
        finally:
            status = bench.close()
        assert status == ends_with


def hello_of(bench, epoch):
    while (hello := bench.receive()).epoch != epoch:
        pass
    return hello
