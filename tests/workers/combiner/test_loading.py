"""A real combiner process that loads and unloads generations while it combines."""

import os
import re
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import zmq
from arenas import add_generation, arena_spec, claim, ensemble, mapped, open_arena, predict
from networks import write_linear
from serving import wait_for

from workers.backends.files import code_stamps
from workers.runtime.child_process import child_command
from workers.runtime.memory import SharedMemory
from workers.runtime.messages import Close, Combined, CombinerHello, Predicted, Predictions, encode
from workers.runtime.queues import Queues
from workers.runtime.sockets import COMBINER, FRONT_END, open_socket
from workers.runtime.spec import (
    Attach,
    CombinerSpec,
    Detach,
    DeviceSpec,
    Load,
    Loaded,
    ModelSource,
    Unload,
    Unloaded,
)

ROOT = Path(__file__).parents[3]
DEVICE = "cpu:0"

pytestmark = pytest.mark.process

_decode = msgspec.msgpack.Decoder(Combined | CombinerHello).decode
_decode_report = msgspec.json.Decoder(Loaded | Unloaded).decode


class Bench:
    """The combiner's peers."""

    def __init__(self, directory, memory, generations):
        self.combiner = open_socket(zmq.PUSH, directory, COMBINER, bind=False)
        self.front_end = open_socket(zmq.PULL, directory, FRONT_END, bind=True)
        self.front_end.rcvtimeo = 30_000
        self.queues = Queues(SharedMemory(memory).buffer, memory.queues)
        self.bell = self.queues.bell("combiner", lambda: self.combiner.send(b""))
        reader, status = os.pipe()
        self.status = os.fdopen(reader, "rb")
        self.process = subprocess.Popen(
            child_command("workers.combiner.process", status, 2),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            pass_fds=(memory.fd, *memory.queues.bells, status),
        )
        os.close(status)
        self.command(CombinerSpec(tuple(map(Load, generations)), memory, directory))
        assert self.status.readline() == b'{"type":"Started"}\n'
        assert _decode(self.front_end.recv()) == CombinerHello(0)

    def command(self, command):
        self.process.stdin.write(msgspec.json.encode(command) + b"\n")
        self.process.stdin.flush()

    def report(self):
        return _decode_report(self.status.readline())

    def tell(self, *ranges, device=DEVICE):
        """What a worker says."""
        assert self.queues.predicted[device].push(encode(Predicted(ranges)))
        self.bell.ring_if_needed()

    def ended(self):
        """What is said next of rows that have ended."""
        records = wait_for(lambda: self.queues.combined.pop(1), "a word of the combiner")
        return _decode(records[0][1]).ended

    def combine(self, arena, row, *, ensemble_index=0, device=DEVICE):
        """Have a row of two members combined."""
        claim(arena, row, row + 1, expected=0b11, ensemble_index=ensemble_index)
        for member in (0, 1):
            predict(arena, member, row, row + 1)
        self.tell(Predictions(arena.spec.index, row, row + 1), device=device)
        (ended,) = self.ended()
        assert (ended.arena, ended.start) == (arena.spec.index, row)
        return ended

    def close(self):
        self.process.stdin.close()
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            self.status.close()
            self.combiner.close()
            self.front_end.close()


@contextmanager
def combining(memory, *generations):
    with tempfile.TemporaryDirectory(prefix="et-") as directory:  # a socket's path must be short
        bench = Bench(directory, memory, generations or (memory.generation,))
        try:
            yield bench
        finally:
            status = bench.close()
        assert status == 0


@pytest.fixture
def memory():
    with mapped(arena_spec()) as memory:
        yield memory


def rule_generation(memory, number, file, *more):
    """A generation with the ensembles `mean`, `own` with the rule `combine` of a file, and more."""
    reference = f"{file}:combine"
    own = ensemble(
        "own",
        (0, 1),
        rule=reference,
        directory=str(file.parent),
        stamps=code_stamps(reference, str(file.parent)),
    )
    ensembles = (ensemble("mean", (0, 1)), own, *more)
    return add_generation(memory.fd, number, arena_spec(index=number, ensembles=ensembles))


def write_rule(file, factor):
    head = "def combine(predictions, weights, members):"
    file.write_text(f"{head}\n    return predictions[0] * {factor}")


def answer(arena, row, index=1):
    spec = arena.spec.ensembles[index]
    return arena.answers(spec)[arena.slots(row, row + 1)][0].tolist()


def test_rules_come_and_go_and_each_generation_runs_its_own_code(memory, tmp_path):
    file = tmp_path / "rule.py"
    write_rule(file, 2)
    with combining(memory) as bench:
        first = open_arena(memory)
        claim(first, 64, 65, expected=0b111)
        generations, arenas = [], []
        for factor in (2, 3):
            write_rule(file, factor)
            generations.append(rule_generation(memory, factor, file))
            bench.command(Load(generations[-1]))
            assert bench.report() == Loaded(factor)
            arenas.append(open_arena(memory, generation=generations[-1]))
        for row in (64, 65):
            for arena in arenas:
                assert bench.combine(arena, row, ensemble_index=1).answered
        assert [answer(arena, 65) for arena in arenas] == [[130, -130], [195, -195]]
        bench.command(Unload(2))
        assert bench.report() == Unloaded(2)
        bench.tell(Predictions(2, 66, 67), Predictions(9, 64, 65))
        bench.combiner.send(encode(Close(2, 66, 67)))
        assert bench.combine(arenas[1], 66).answered, "what is late has no effect"
        bench.command(Unload(2))
        assert bench.report() == Unloaded(2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("combine = 1 / 0", r"importing .* failed: ZeroDivisionError"),
        ("combine = 1", "is not a function"),
        (None, "is not what it was when it was deployed"),
    ],
)
def test_a_rule_that_can_not_be_loaded_refuses_its_generation_only(memory, tmp_path, text, reason):
    file = tmp_path / "rule.py"
    file.write_text(text or "def combine(predictions, weights, members): ...")
    second = rule_generation(memory, 2, file)
    if text is None:
        file.write_text("def combine(predictions, weights, members): 1")
    with combining(memory) as bench:
        bench.command(Load(second))
        report = bench.report()
        assert report.generation == 2
        assert report.error.startswith(f"rule {file}:combine of own can't be used: ")
        assert re.search(reason, report.error)
        bench.command(Unload(2))
        assert bench.report() == Unloaded(2)
    with combining(memory, second) as bench:  # a combiner that restarts serves what it can
        arena = open_arena(memory, generation=second)
        assert bench.combine(arena, 64).answered
        assert not bench.combine(arena, 65, ensemble_index=1).answered


def test_a_worker_on_a_new_device_is_heard():
    spec = arena_spec(ensembles=(ensemble("mean", (0, 1)),))
    with mapped(spec, devices=(DEVICE, "")) as memory, combining(memory) as bench:
        device, arena = DeviceSpec("cpu:1", "cpu-1", 1 << 30), open_arena(memory)
        for row in (64, 66):
            bench.command(Attach(device, 1))
            bench.queues.attach("cpu:1", 1)
            assert bench.combine(arena, row, device="cpu:1").answered
            assert bench.combine(arena, row + 1).answered
            bench.command(Detach("cpu:1"))
            bench.queues.detach("cpu:1")


def test_nothing_grows_with_generations(memory, tmp_path):
    file = tmp_path / "rule.py"
    write_linear(tmp_path / "meta.onnx", np.ones((4, 2), "f4"))
    meta = ModelSource("meta", "onnx", str(tmp_path / "meta.onnx"))
    stack = ensemble("stack", (0, 1), rule="stack", meta=meta)
    with combining(memory) as bench:
        process = psutil.Process(bench.process.pid)

        def change(number):
            write_rule(file, number)
            bench.command(Load(rule_generation(memory, number, file, stack)))
            bench.command(Unload(number - 1))
            reports = sorted((bench.report() for _ in range(2)), key=lambda one: one.generation)
            assert reports == [Unloaded(number - 1), Loaded(number)]

        for number in range(2, 7):
            change(number)
        fds, threads, rss = process.num_fds(), process.num_threads(), process.memory_info().rss
        maps = len(process.memory_maps(grouped=False))
        for number in range(7, 57):
            change(number)
        wait_for(lambda: process.num_threads() <= threads, "the thread's end")
        assert process.num_fds() <= fds + 4, "ZeroMQ may have connected meanwhile"
        assert len(process.memory_maps(grouped=False)) < maps + 25, "allocators have some more"
        assert process.memory_info().rss - rss < 8 << 20
