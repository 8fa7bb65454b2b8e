"""Closed and open loops on connections of the test's own, with a clock that the test turns."""

import asyncio
import itertools

import pytest
from ensembled_client.load.loops import ClosedLoadLoop, LoadConnection, OpenLoadLoop
from ensembled_client.load.schedule import Schedule
from ensembled_client.load.stats import RequestResult, RequestStats, Window
from ensembled_client.load.workload import Workload
from hypothesis import given
from hypothesis import strategies as st

MS = 1_000_000
FINE = RequestResult(None)


class World:
    """Time, a server that answers when the test says, and what a loop did to both."""

    def __init__(self, window=None):
        self.now_ns = 0
        self.stats = RequestStats(window or Window(0))
        self.connections = []
        self.waiting = []
        self.sent = []
        self.at_ns = None

    def new_connection(self, on_result):
        connection = FakeConnection(self, on_result)
        self.connections.append(connection)
        return connection

    def new_timer(self, callback):
        self.callback = callback
        return self

    def set(self, at_ns):
        self.at_ns = at_ns

    def close(self):
        self.at_ns = None

    def clock_ns(self):
        return self.now_ns

    def open_loop(self, schedule, connections=1000):
        requests = {rows: (b"%d" % rows,) for rows in range(1, 5)}
        return OpenLoadLoop(
            new_connection=self.new_connection,
            requests=Workload(1, requests).cycles(),
            stats=self.stats,
            clock_ns=self.clock_ns,
            max_connections=connections,
            arrivals=schedule.arrivals(),
            new_timer=self.new_timer,
        )

    def closed_loop(self, connections, count=None):
        return ClosedLoadLoop(
            new_connection=self.new_connection,
            requests=Workload(1, {1: (b"a", b"b", b"c")}).cycles(),
            stats=self.stats,
            clock_ns=self.clock_ns,
            connections=connections,
            rows=1,
            count=count,
        )

    def answer(self, result=FINE):
        """Answer the request that has waited longest."""
        connection = self.waiting.pop(0)
        connection._finish(result)

    def advance(self, to_ns):
        """Let time pass: the alarm rings when it should."""
        while self.at_ns is not None and self.at_ns <= to_ns:
            self.now_ns, self.at_ns = max(self.now_ns, self.at_ns), None
            self.callback()
        self.now_ns = to_ns


class FakeConnection(LoadConnection):
    def __init__(self, world, on_result):
        super().__init__(on_result)
        self.world = world

    @property
    def is_open(self):
        return True

    async def open(self):
        pass

    def send(self, request):
        self.is_busy = True
        self.world.sent.append((self.world.now_ns, request))
        self.world.waiting.append(self)

    def cancel(self, error):
        self.world.waiting.remove(self)
        self._finish(RequestResult(error))

    def _abort(self):
        pass


def quantile_ms(durations, share):
    return durations.quantiles_ms([share])[0]


@pytest.mark.parametrize("connections", [1, 3, 1000])
def test_a_stall_shows_in_the_latency_of_everything_that_was_due_in_it(connections):
    world = World()
    loop = world.open_loop(Schedule(rate=100, duration_s=3), connections)
    loop.start(0)
    for tick in range(1, 301):  # 10 ms each; the server stands still from second 1 to second 2
        world.advance(tick * 10 * MS - 1)
        while world.waiting and not 100 < tick < 200:
            world.answer()
    world.advance(3000 * MS)
    while world.waiting:
        world.answer()
    assert loop.done.is_set()
    latency = world.stats.latency
    assert (latency.count, world.stats.sent) == (300, 300)
    # Due at 1000 ms, ..., 1980 ms and answered at 2000 ms at the earliest: waits of 20 to 1000 ms.
    slow = [share for share in range(300) if quantile_ms(latency, (share + 1) / 300) > 15]
    assert len(slow) == 99
    assert quantile_ms(latency, 1) == pytest.approx(999, abs=2)
    assert quantile_ms(latency, 0.8335) == pytest.approx(500, abs=15)


def test_a_closed_loop_counts_a_stall_once_per_connection():
    world = World()
    loop = world.closed_loop(2)
    loop.start(0)
    for tick in range(1, 301):
        world.advance(tick * 10 * MS)
        if not 100 < tick < 200:
            for _ in range(len(world.waiting)):
                world.answer()
    latency = world.stats.latency
    slow = [n for n in range(latency.count) if quantile_ms(latency, (n + 1) / latency.count) > 15]
    assert len(slow) == 2


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, 400), min_size=1, max_size=60),
    st.booleans(),
    st.integers(1, 500),
)
def test_whatever_the_server_does_each_request_is_counted_once_from_its_intended_start(
    connections, answer_ms, poisson, rate
):
    world = World()
    schedule = Schedule(rate=rate, poisson=poisson, count=50)
    due = [ns for ns, _ in schedule.arrivals()]
    loop = world.open_loop(schedule, connections)
    loop.start(0)
    ended = []
    record = world.stats.record_end

    def spy(intended_ns, sent_ns, now_ns, rows, result):
        assert intended_ns <= sent_ns <= now_ns
        ended.append(intended_ns)
        record(intended_ns, sent_ns, now_ns, rows, result)

    world.stats.record_end = spy
    for gap_ms in itertools.chain(answer_ms, itertools.repeat(500)):
        world.advance(world.now_ns + gap_ms * MS)
        assert len(world.waiting) <= connections
        if world.waiting:
            world.answer()
        if loop.done.is_set():
            break
    assert sorted(ended) == due
    assert (world.stats.succeeded, world.stats.sent) == (50, 50)
    assert loop.in_flight == 0


def test_an_open_loop_sends_on_time_and_with_the_rows_of_the_trace():
    world = World()
    loop = world.open_loop(Schedule(trace=((0.1, 2), (0.1, 4), (0.5, 1))))
    loop.start(1000)
    world.advance(10**9)
    assert world.sent == [
        (1000 + 100 * MS, b"2"),
        (1000 + 100 * MS, b"4"),
        (1000 + 500 * MS, b"1"),
    ]
    assert world.stats.queued == 0


def test_lag_of_the_tester_is_measured_apart_from_waiting_for_a_connection():
    world = World()
    loop = world.open_loop(Schedule(rate=1000, count=10), connections=2)
    loop.start(0)
    world.now_ns, world.at_ns = 100 * MS, None  # the loop was stuck
    loop._send_due()
    lag = world.stats.schedule_lag
    assert lag.count == 10
    assert 98.9 < quantile_ms(lag, 1) < 99.2
    assert world.stats.queued == 8


def test_warm_up_counts_for_nothing():
    world = World(Window(1000 * MS))
    loop = world.open_loop(Schedule(rate=10, warmup_s=1, duration_s=1))
    loop.start(0)
    for tick in range(1, 21):
        world.advance(tick * 100 * MS - 1)
        while world.waiting:
            world.answer()
    assert len(world.sent) == 20
    assert (world.stats.sent, world.stats.succeeded, world.stats.responses) == (10, 10, 10)


def test_answers_after_the_measurement_have_a_latency_but_add_no_throughput():
    world = World(Window(0, 1000 * MS))
    loop = world.open_loop(Schedule(rate=10, duration_s=1))
    loop.start(0)
    world.advance(950 * MS)
    for _ in range(4):
        world.answer()
    world.now_ns = 5000 * MS
    while world.waiting:
        world.answer()
    assert (world.stats.succeeded, world.stats.responses) == (10, 4)
    assert quantile_ms(world.stats.latency, 1) > 4500


def test_patience_ends_requests_whether_they_were_sent_or_not():
    world = World()
    loop = world.open_loop(Schedule(rate=10, count=5), connections=2)
    loop.start(0)
    world.advance(1000 * MS)
    loop.cancel_before(350 * MS, "no response within 1 s")
    # Due at 0, 100, 200, 300 and 400 ms; the first two were sent.
    assert world.stats.errors == {
        "no response within 1 s": 2,
        "no response within 1 s (never sent)": 2,
    }
    while world.waiting:
        world.answer()
    assert loop.done.is_set()
    assert world.stats.succeeded == 1


def test_a_stopped_loop_abandons_what_has_no_answer():
    world = World()
    loop = world.open_loop(Schedule(rate=10), connections=2)
    loop.start(0)
    world.advance(450 * MS)
    loop.stop()
    assert not loop.done.is_set()
    loop.abandon()
    assert (world.stats.sent, world.stats.abandoned) == (5, 5)


@given(st.integers(1, 9), st.integers(1, 60))
def test_a_closed_loop_sends_exactly_the_count_in_rotation(connections, count):
    world = World()
    loop = world.closed_loop(connections, count)
    loop.start(0)
    while world.waiting:
        assert len(world.waiting) == loop.in_flight <= connections
        world.now_ns += MS
        world.answer()
    assert loop.done.is_set()
    assert (world.stats.sent, world.stats.succeeded) == (count, count)
    assert [request for _, request in world.sent] == [
        b"abc"[i % 3 : i % 3 + 1] for i in range(count)
    ]


def test_a_client_whose_connection_is_lost_does_not_spin():
    async def main():
        world = World()
        loop = world.closed_loop(1)
        loop.start(0)
        type(world.connections[0]).is_open = property(lambda _: False)
        try:
            world.answer(RequestResult("connection lost"))
            assert world.waiting == []
            loop.stop()
            await asyncio.wait_for(loop.done.wait(), 10)
        finally:
            type(world.connections[0]).is_open = property(lambda _: True)
        assert world.stats.errors == {"connection lost": 1}

    asyncio.run(main())
