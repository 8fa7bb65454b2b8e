"""A real worker process that loads and unloads generations while it serves."""

import re
import time
from pathlib import Path

import psutil
import pytest
from arenas import add_generation, arena_spec, mapped, open_arena
from serving import wait_for
from worker_bench import fake_source, hello_of, instance_of, working

from workers.backends.files import stamped
from workers.runtime.spec import (
    Load,
    Loaded,
    ModelSource,
    PythonSource,
    TensorSpec,
    Unload,
    Unloaded,
)

pytestmark = pytest.mark.process

#: A member that tells when it is loaded and closed, and adds a number. Once the loop has used it,
#: no other thread may.
TOLD = """
import pathlib, threading

class Told:
    def __init__(self, add, log):
        self.add, self.log, self.is_in_use = add, pathlib.Path(log), False

    def tell(self, event):
        with self.log.open("a") as log:
            print(event, self.add, file=log)

    def load(self, device):
        self.tell("load")

    def predict(self, x):
        is_loop = threading.current_thread() is threading.main_thread()
        if self.is_in_use and not is_loop:
            raise RuntimeError("two threads use it")
        self.is_in_use |= is_loop
        return {"output": x + self.add}

    def close(self):
        self.tell("close")
"""
X = (TensorSpec("x", "FP32", (2,)),)


@pytest.fixture
def memory():
    with mapped(arena_spec()) as memory:
        yield memory


def generation_of(memory, number):
    """A generation with one arena, whose number is the same."""
    return add_generation(memory.fd, number, arena_spec(index=number))


def python_source(path, text, *, member="b", name, **args):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    python = PythonSource(f"{path}:{name}", args, str(path.parent))
    return stamped(ModelSource(member, "python", declared=X, python=python))


def told_source(tmp_path, *, add=1, member="b"):
    log = str(tmp_path / "told")
    return python_source(tmp_path / "told.py", TOLD, name="Told", member=member, add=add, log=log)


def told(tmp_path):
    return (tmp_path / "told").read_text().splitlines()


def start(bench):
    """Become the worker's front-end."""
    bench.receive()
    bench.reset(1)
    return hello_of(bench, 1)


def answers(arena, stop, start=64):
    return arena.predictions[1][arena.slots(start, stop), 0].tolist()


def mappings(bench):
    """How often the worker maps each part of the shared memory."""
    lines = Path(f"/proc/{bench.process.pid}/maps").read_text().splitlines()
    return sorted(line.split()[2] for line in lines if "memfd:ensembled" in line)


def hello_with(bench, *instances):
    """Wait for a Hello with exactly these instances."""
    while (hello := bench.receive()).latencies.keys() != {*instances}:
        pass
    return hello


def test_generations_come_and_go_while_jobs_run(memory):
    with working(memory) as bench:
        start(bench)
        before = mappings(bench)
        old, second = open_arena(memory), generation_of(memory, 2)
        assert bench.predict(old, 64, 66, instance=0).all_predicted
        added = instance_of(fake_source(add=10.0), number=5, arena=2)
        bench.command(Load(second, (added,)))
        row = 66
        while bench.process.poll() is None and not bench.has_reported():
            assert bench.predict(old, row, row + 1, instance=0).all_predicted
            row += 1
        assert bench.report() == Loaded(2)
        assert hello_with(bench, 0, 5).latencies[5][1] > 0
        new = open_arena(memory, generation=second)
        assert bench.predict(new, 64, 66, instance=5).all_predicted
        assert answers(new, 66) == [74, 75]
        assert bench.predict(old, row, row + 1, instance=0).all_predicted
        bench.command(Unload(1))
        assert bench.report() == Unloaded(1)
        hello_with(bench, 5)
        late = bench.predict(old, row + 1, row + 2, instance=0)
        assert (late.elapsed_s < 0.1, late.all_predicted) == (True, False)
        assert old.done[1, old.slots(row + 1, row + 2)] != row + 1, "nobody waits for it"
        assert bench.predict(new, 66, 68, instance=5).all_predicted
        assert len(mappings(bench)) == len(before)
        bench.command(Unload(9))
        assert bench.report() == Unloaded(9), "one that it never had"


def test_a_model_that_is_loaded_is_shared_whatever_member_it_is_of(memory, tmp_path):
    source = told_source(tmp_path)
    with working(memory, sources=(source,)) as bench:
        first = start(bench).latencies[0]
        second, third = generation_of(memory, 2), generation_of(memory, 3)
        like = instance_of(told_source(tmp_path, member="cat@2"), number=1, arena=2)
        other = instance_of(told_source(tmp_path, add=5), number=2, arena=2)
        bench.command(Load(second, (like, other)))
        assert bench.report() == Loaded(2)
        assert hello_with(bench, 0, 1, 2).latencies[1] == first, "it need not be warmed again"
        smaller = instance_of(source, number=3, arena=3, batch=4)
        bench.command(Load(third, (smaller,)))
        assert bench.report() == Loaded(3)
        assert hello_with(bench, 0, 1, 2, 3).latencies[3] != first
        assert told(tmp_path) == ["load 1", "load 5"]
        for number, closed in ((1, []), (2, ["close 5"]), (3, ["close 5", "close 1"])):
            bench.command(Unload(number))
            assert bench.report() == Unloaded(number)
            assert told(tmp_path) == ["load 1", "load 5", *closed]


def test_a_worker_that_restarts_serves_all_generations_with_one_copy_of_a_model(memory, tmp_path):
    source = told_source(tmp_path)
    second = instance_of(source, number=1, arena=2, batch=4)
    loads = (Load(generation_of(memory, 2), (second,)),)
    with working(memory, sources=(source,), loads=loads) as bench:
        latencies = start(bench).latencies
        assert latencies.keys() == {0, 1}
        assert min(min(one) for one in latencies.values()) > 0, "both are warm"
        assert told(tmp_path) == ["load 1"]


@pytest.mark.parametrize(
    ("text", "reason", "events"),
    [
        (TOLD.replace("predict", "foresee"), "has no method predict", ["close 7"]),
        (
            TOLD.replace("x + self.add", "1 / 0"),
            "fails on a batch of 2 rows",
            ["load 7", "close 7"],
        ),
        (TOLD.replace("(self, device):", "(self):"), "load failed: TypeError", ["close 7"]),
        ("import sys\nsys.exit('enough')", "importing .* failed: SystemExit: enough", []),
        ("import no_such_library", "no_such_library", []),
    ],
)
def test_a_load_that_fails_says_why_and_leaves_nothing(memory, tmp_path, text, reason, events):
    with working(memory) as bench:
        start(bench)
        arena, before = open_arena(memory), mappings(bench)
        log = str(tmp_path / "told")
        good = instance_of(told_source(tmp_path), number=1, arena=2)
        bad = python_source(tmp_path / "bad.py", text, member="bad", name="Told", add=7, log=log)
        instances = (good, instance_of(bad, number=2, arena=2))
        for _ in range(2):
            bench.command(Load(generation_of(memory, 2), instances))
            report = bench.report()
            assert report.generation == 2
            assert "member bad" in report.error
            assert "bad.py" in report.error
            assert re.search(reason, report.error)
            assert "\n" not in report.error
        assert told(tmp_path) == ["load 1", *events, "close 1"] * 2
        assert mappings(bench) == before
        assert bench.predict(arena, 64, 72, instance=0).all_predicted
        hello_with(bench, 0)
        bench.command(Unload(2))
        assert bench.report() == Unloaded(2)


#: A member whose load waits until a file is there.
SLOW = """
import pathlib, time

class Slow:
    def __init__(self, gate):
        self.gate = pathlib.Path(gate)

    def load(self, device):
        self.gate.with_suffix(".begun").touch()
        while not self.gate.exists():
            time.sleep(0.01)

    def predict(self, x):
        return {"output": x}
"""


def test_a_load_that_is_taken_back_ends_as_unloaded(memory, tmp_path):
    gate = tmp_path / "gate"
    slow = python_source(tmp_path / "slow.py", SLOW, name="Slow", gate=str(gate))
    with working(memory) as bench:
        start(bench)
        arena, before = open_arena(memory), mappings(bench)
        first = [instance_of(one, number=i, arena=2) for i, one in ((1, slow), (2, fake_source()))]
        bench.command(Load(generation_of(memory, 2), tuple(first)))
        wait_for(gate.with_suffix(".begun").exists, "the load's beginning")
        second = instance_of(fake_source(add=3.0), number=3, arena=3)
        bench.command(Load(generation_of(memory, 3), (second,)))
        bench.command(Load(generation_of(memory, 4), (instance_of(slow, number=4, arena=4),)))
        for number in (2, 4):
            bench.command(Unload(number))
        assert bench.predict(arena, 64, 66, instance=0).all_predicted
        assert not bench.has_reported()
        gate.touch()
        reports = [bench.report() for _ in range(3)]
        assert sorted(reports, key=lambda one: one.generation) == [
            Unloaded(2),
            Loaded(3),
            Unloaded(4),
        ]
        hello_with(bench, 0, 3)
        bench.command(Unload(3))
        assert bench.report() == Unloaded(3)
        assert mappings(bench) == before


#: A member whose load holds the interpreter's lock.
HOLDING = """
import ctypes, pathlib

class Holding:
    def __init__(self, begun, ms):
        self.begun, self.ms = pathlib.Path(begun), ms

    def load(self, device):
        self.begun.touch()
        ctypes.PyDLL(None).usleep(1000 * self.ms)

    def predict(self, x):
        return {"output": x}
"""


def test_a_load_that_holds_the_interpreters_lock_does_not_count_as_hung(memory, tmp_path):
    begun = tmp_path / "begun"
    args = {"begun": str(begun), "ms": 800}
    holding = python_source(tmp_path / "holding.py", HOLDING, name="Holding", **args)
    limit_ns = 100_000_000
    with working(memory) as bench:
        start(bench)
        bench.command(Load(generation_of(memory, 2), (instance_of(holding, number=1, arena=2),)))
        wait_for(begun.exists, "the load's beginning")
        while not bench.has_reported():
            assert not bench.board.is_hung(time.monotonic_ns(), limit_ns)
        assert bench.report() == Loaded(2)
        assert bench.board.is_hung(time.monotonic_ns() + 3600 * 10**9, limit_ns), "later it may be"


def test_changed_code_runs_beside_the_code_of_before(memory, tmp_path):
    file = tmp_path / "net.py"
    text = "class Net:\n    def predict(self, x):\n        return x + 1"
    old = python_source(file, text, name="Net")
    with working(memory, sources=(old,)) as bench:
        start(bench)
        before = file.stat()
        new = python_source(file, text.replace("x + 1", "x + 2"), name="Net")
        second = generation_of(memory, 2)
        bench.command(Load(second, (instance_of(new, number=1, arena=2),)))
        assert bench.report() == Loaded(2)
        assert file.stat().st_size == before.st_size
        arenas = open_arena(memory), open_arena(memory, generation=second)
        for number, arena in enumerate(arenas):
            assert bench.predict(arena, 64, 66, instance=number).all_predicted
        assert [answers(arena, 66) for arena in arenas] == [[65, 66], [66, 67]]


def test_where_there_is_no_room_for_two_the_old_model_goes_first(memory, tmp_path):
    stays, goes = told_source(tmp_path, add=1), told_source(tmp_path, add=2)
    with working(memory, sources=(stays, goes)) as bench:
        start(bench)
        second = generation_of(memory, 2)
        kept = instance_of(stays, number=2, arena=2)
        comes = instance_of(told_source(tmp_path, add=3), number=3, arena=2)
        bench.command(Load(second, (kept, comes), replaces=1))
        assert bench.report() == Loaded(2)
        hello_with(bench, 0, 2, 3)
        assert told(tmp_path) == ["load 1", "load 2", "close 2", "load 3"]
        bench.command(Unload(2))  # taken back: what is missing of the old one is loaded again
        first = [instance_of(one, number=i) for i, one in enumerate((stays, goes))]
        bench.command(Load(memory.generation, tuple(first)))
        assert [bench.report(), bench.report()] == [Unloaded(2), Loaded(1)]
        hello_with(bench, 0, 1)
        assert told(tmp_path)[4:] == ["close 3", "load 2"]
        arena = open_arena(memory)
        for row, instance in ((64, 0), (66, 1)):
            assert bench.predict(arena, row, row + 2, instance=instance).all_predicted
        assert answers(arena, 68) == [65, 66, 68, 69]
        bench.command(Unload(1))
        assert bench.report() == Unloaded(1)
        assert mappings(bench) == ["00000000"], "the board"


def test_nothing_grows_with_generations(memory, tmp_path):
    with working(memory) as bench:
        start(bench)
        process = psutil.Process(bench.process.pid)

        def change(number):
            sources = told_source(tmp_path, add=number), fake_source(add=float(number))
            instances = tuple(
                instance_of(one, number=2 * number + i, arena=number)
                for i, one in enumerate(sources)
            )
            bench.command(Load(generation_of(memory, number), instances))
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
