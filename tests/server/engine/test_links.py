"""The front-end's links, with the test in the place of worker, combiner and event loop."""

import select
import tempfile
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import zmq
from arenas import arena_spec, mapped
from serving import wait_for

from server.engine.links import Links
from workers.runtime.memory import SharedMemory
from workers.runtime.messages import (
    Assign,
    Combined,
    CombinerHello,
    Ended,
    Finished,
    Hello,
    Job,
    Ready,
    encode,
)
from workers.runtime.queues import Queues
from workers.runtime.sockets import FRONT_END, WORKERS, open_socket

DEVICE = "cpu:0"
COMBINED = Combined((Ended(0, 160, 161, 1, True),))


class Others:
    """The links, and what is on their other side.

    Attributes:
        links: those of the front-end, which has started.
        heard: all that they have received.
        turns: what the event loop would call next.
    """

    def __init__(self, memory, sockets):
        self.queues = Queues(SharedMemory(memory).buffer, memory.queues)
        self.asleep = self.queues.asleep["front-end"]
        self.bells = memory.queues.bells
        self.turns, self.readers, self.heard = [], {}, []
        self.links = Links(memory=SharedMemory(memory), sockets=sockets, epoch=1)
        self.worker = open_socket(zmq.DEALER, sockets, WORKERS, bind=False, identity=f"{DEVICE}/7")
        self.combiner = open_socket(zmq.PUSH, sockets, FRONT_END, bind=False)
        loop = SimpleNamespace(
            call_soon=self.turns.append,
            add_reader=lambda fd, call, *arguments: self.readers.update({fd: (call, arguments)}),
        )
        self.links.start(loop, self.hear)

    def hear(self):
        self.heard += self.links.receive()

    def turn(self):
        """A turn of the event loop: what is due, and what descriptors tell."""
        due, self.turns[:] = list(self.turns), []
        for call in due:
            call()
        ready, _, _ = select.select(list(self.readers), (), (), 0)
        for fd in ready:
            call, arguments = self.readers[fd]
            call(*arguments)

    def sleep(self):
        """Let the loop turn until the front-end sleeps."""
        wait_for(lambda: (self.turn(), self.asleep[0] and not self.turns)[1], "sleep")

    def ready(self, job, incarnation=7):
        """The worker says that a job is over, as workers do."""
        message = encode(Ready(1, (Finished(job, 0.5),)))
        assert self.queues.finished[DEVICE].push(message, incarnation)
        if self.queues.wanted[DEVICE][0]:
            self.queues.bell("front-end", lambda: self.worker.send(b"")).ring_if_needed()

    def finished(self):
        """The jobs of which it was heard that they are over."""
        return [
            one.job
            for news in self.heard
            if isinstance(news, tuple) and isinstance(news[1], Ready)
            for one in news[1].finished
        ]

    def close(self):
        self.links.close()
        self.worker.close()
        self.combiner.close()


@contextmanager
def linked(memory):
    with tempfile.TemporaryDirectory(prefix="et-") as sockets:
        others = Others(memory, sockets)
        try:
            yield others
        finally:
            others.close()


@pytest.fixture(params=["eventfd", "zmq"])
def memory(request):
    with mapped(arena_spec(), bell=request.param) as memory:
        yield memory


@pytest.fixture
def others(memory):
    with linked(memory) as others:
        yield others


def test_what_a_former_worker_has_left_is_dropped(others):
    others.ready(1)
    others.hear()
    assert others.heard == [], "it is not known yet"
    others.links.started(DEVICE, 7)
    others.ready(2)
    others.links.forget(DEVICE)
    others.hear()
    others.links.started(DEVICE, 8)
    others.ready(3)
    others.ready(4, incarnation=8)
    others.hear()
    assert others.finished() == [4]


def test_a_new_front_end_reads_nothing_that_was_for_a_former_one(memory):
    with linked(memory) as others:
        others.links.started(DEVICE, 7)
        others.ready(1)
        others.queues.combined.push(encode(COMBINED))
    with linked(memory) as others:
        others.links.started(DEVICE, 7)
        others.ready(2)
        others.hear()
        assert others.finished() == [2]
        assert COMBINED not in others.heard


def test_no_hello_overtakes_what_was_said_before(others):
    others.links.started(DEVICE, 7)
    hello = Hello(1, 5, {})
    others.worker.send(encode(hello))
    others.combiner.send(encode(CombinerHello(1)))
    wait_for(lambda: all(select.select([fd], (), (), 0)[0] for fd in list(others.readers)[-2:]), "")
    others.ready(5)
    others.queues.combined.push(encode(COMBINED))
    wait_for(lambda: (others.turn(), len(others.heard) == 4)[1], "all four")
    assert others.heard[:2] == [(DEVICE, Ready(1, (Finished(5, 0.5),))), COMBINED]
    assert {type(news) for news in others.heard[2:]} == {tuple, CombinerHello}


def test_a_full_ring_takes_no_jobs_until_the_worker_reads(others):
    others.links.started(DEVICE, 7)
    message = Assign(1, (Job(1, 0, ((160, 168),)),))
    taken = 0
    while others.links.assign(DEVICE, message):
        taken += 1
    assert taken > 50
    records = others.queues.assigned[DEVICE].pop()
    assert [tag for tag, _ in records] == [7] * taken
    assert others.links.assign(DEVICE, message)


def test_who_is_awake_looks_again_and_who_sleeps_is_rung_for(others):
    others.links.started(DEVICE, 7)
    others.worker.send(encode(Hello(1, 0, {})))
    wait_for(lambda: (others.turn(), others.heard)[1], "a word of the worker")
    others.sleep()
    others.links.want_ready(DEVICE, True)
    others.ready(1)
    wait_for(lambda: (others.turn(), others.finished() == [1])[1], "the bell")
    assert not others.asleep[0]
    assert others.turns, "it looks again in the next turn"
    others.ready(2)
    others.turns.pop()()
    assert others.finished() == [1, 2], "without a bell"
    others.sleep()


def test_what_nobody_waits_for_rings_no_bell_and_is_read_with_the_rest(others):
    others.links.started(DEVICE, 7)
    others.sleep()
    others.ready(1)
    assert others.asleep[0]
    assert not others.turns
    others.links.want_ready(DEVICE, True)
    assert others.turns, "what is there already needs no bell"
    others.turn()
    assert others.finished() == [1]


def test_after_a_message_is_sent_the_sockets_are_looked_at_again(others):
    """Sending may swallow the edge that tells of a message."""
    others.links.started(DEVICE, 7)
    others.worker.send(encode(Hello(1, 0, {})))
    wait_for(lambda: (others.turn(), others.heard)[1], "a word of the worker")
    others.sleep()
    assert others.links.reset_worker(DEVICE)
    assert others.turns
