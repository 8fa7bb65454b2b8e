"""The ring: in one process by any steps, and between two, one of which may be killed."""

import signal
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from arenas import arena_spec, mapped
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.memory import SharedMemory
from workers.runtime.queues import Queues, Sleeper
from workers.runtime.rings import RING_HEADER_BYTES, Ring

ROOT = Path(__file__).parents[3]
CAPACITY = 64
RECORD_BYTES = 8  # before the payload


def whole(payload):
    """What a record takes."""
    size = RECORD_BYTES + len(payload)
    return size + -size % 8


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.binary(max_size=40)),
        st.tuples(st.just("pop"), st.integers(1, 4)),
        st.tuples(st.just("torn"), st.binary(min_size=1, max_size=CAPACITY)),
        st.tuples(st.sampled_from(["new producer", "new consumer"]), st.none()),
    ),
    max_size=60,
)


@given(steps, st.integers(0, 200))
def test_what_goes_in_comes_out_whole_and_in_its_order(steps, laps):
    buffer = memoryview(bytearray(RING_HEADER_BYTES + CAPACITY))
    producer, consumer = Ring(buffer), Ring(buffer)
    for _ in range(laps):  # so that the rest begins anywhere
        assert producer.push(b"")
        assert consumer.pop() == [(0, b"")]
    unread = deque()
    for number, (what, value) in enumerate(steps):
        match what:
            case "push":
                room = CAPACITY - sum(whole(payload) for _, payload in unread)
                pushed = producer.push(value, number)
                assert pushed == (whole(value) <= room)
                if pushed:
                    unread.append((number, value))
            case "pop":
                expected = [unread.popleft() for _ in range(min(value, len(unread)))]
                assert consumer.pop(value) == expected
            case "torn":  # a producer that was killed before it moved the tail
                free = CAPACITY - sum(whole(payload) for _, payload in unread)
                tail = buffer[:RING_HEADER_BYTES].cast("q")[8]
                for offset, byte in enumerate(value[:free]):
                    buffer[RING_HEADER_BYTES + (tail + offset) % CAPACITY] = byte
            case "new producer":
                producer = Ring(buffer)
            case "new consumer":
                consumer = Ring(buffer)
                consumer.skip()
                unread.clear()
        assert consumer.is_empty == (not unread)
    assert consumer.pop() == list(unread)


# -- two processes -----------------------------------------------------------------------------

CHILD = """
import os, signal, sys
import msgspec
from workers.runtime import queues as bells, rings
from workers.runtime.queues import Sleeper
from workers.runtime.memory import SharedMemory
from workers.runtime.queues import Queues
from workers.runtime.spec import MemorySpec

memory = msgspec.json.decode(sys.argv[1], type=MemorySpec)
queues = Queues(SharedMemory(memory).buffer, memory.queues)
assigned, finished = queues.assigned["cpu:0"], queues.finished["cpu:0"]
bell = queues.bell("front-end", None)
sleeper = Sleeper(
    queues.asleep["worker cpu:0"], (assigned,), queues.own_descriptors("worker cpu:0")
)
"""
ECHO = """
print("up", flush=True)
while True:
    assert sleeper.wait(30), "a bell was lost"
    for tag, payload in assigned.pop(int(sys.argv[2])):
        while not finished.push(payload, tag):
            pass
        bell.ring_if_needed()
"""
KILLED = """
where, left = sys.argv[2], int(sys.argv[3])

def fence():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

{"ring": rings, "bell": bells}[where].fence = fence
for number in range(100):
    finished.push(b"%d" % number)
    bell.ring_if_needed()
"""


@contextmanager
def child(memory, code, *arguments):
    spec = msgspec.json.encode(memory).decode()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD + code, spec, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        pass_fds=(memory.fd, *memory.queues.bells),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def memory():
    with mapped(arena_spec()) as memory:
        yield memory


def front_end(memory):
    """The front-end's view: its queues, and how it sleeps."""
    queues = Queues(SharedMemory(memory).buffer, memory.queues)
    sleeper = Sleeper(
        queues.asleep["front-end"],
        (queues.finished["cpu:0"],),
        queues.own_descriptors("front-end"),
    )
    return queues, sleeper


@pytest.mark.process
@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_no_message_and_no_bell_is_lost_between_two_processes(memory, at_once):
    """Both sleep for as long as nobody wakes them, and each wakes the other all the time."""
    queues, sleeper = front_end(memory)
    assigned, finished = queues.assigned["cpu:0"], queues.finished["cpu:0"]
    bell = queues.bell("worker cpu:0", None)
    count, sent, got = 10_000, 0, []
    with child(memory, ECHO, at_once) as process:
        assert process.stdout.readline() == b"up\n"
        while len(got) < count:
            while sent < count and sent - len(got) < at_once:
                assert assigned.push(b"%d" % sent * (sent % 5), sent)
                sent += 1
                bell.ring_if_needed()
            assert sleeper.wait(30), "a bell was lost"
            got += finished.pop()
    assert got == [(number, b"%d" % number * (number % 5)) for number in range(count)]


@pytest.mark.process
@pytest.mark.parametrize("left", [0, 1, 4])
@pytest.mark.parametrize("where", ["ring", "bell"])
def test_whoever_is_killed_leaves_whole_records_and_a_successor_goes_on(memory, where, left):
    """Between a record and the tail that takes it in, and between the tail and the bell."""
    queues, sleeper = front_end(memory)
    finished = queues.finished["cpu:0"]
    with child(memory, KILLED, where, left) as process:
        assert process.wait(30) == -signal.SIGKILL
    there = left if where == "ring" else left + 1
    if there:
        assert sleeper.wait(30), "what is there is found without a bell"
    assert finished.pop() == [(0, b"%d" % number) for number in range(there)]
    successor, _ = front_end(memory)
    assert successor.finished["cpu:0"].push(b"and on", 1)
    assert finished.pop() == [(1, b"and on")]


def test_a_wait_that_nobody_ends_ends_by_itself_and_says_so(memory):
    queues, sleeper = front_end(memory)
    assert not sleeper.wait(0.001)
    assert queues.asleep["front-end"][0] == 0
    queues.bell("front-end", None).ring_if_needed()
    assert not sleeper.wait(0.001), "whoever is awake is not rung for"
    queues.asleep["front-end"][0] = 1
    queues.bell("front-end", None).ring_if_needed()
    assert sleeper.wait(30)
