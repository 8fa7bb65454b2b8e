"""Closed and open loops on lanes of the test's own, with a clock that the test turns."""

import asyncio
import itertools

import pytest
from ensembled_client.load.answers import Verdict
from ensembled_client.load.closed_loop import ClosedLoop
from ensembled_client.load.histogram import Durations
from ensembled_client.load.lanes import Lane
from ensembled_client.load.open_loop import OpenLoop
from ensembled_client.load.recorder import Recorder, Window
from ensembled_client.load.schedule import Schedule
from ensembled_client.load.workload import Rotation, Workload
from hypothesis import given
from hypothesis import strategies as st

MS = 1_000_000
FINE = Verdict(None)


class World:
    """Time, a server that answers when the test says, and what a loop did to both."""

    def __init__(self, window=None):
        self.now_ns = 0
        self.recorder = Recorder(window or Window(0))
        self.lanes = []
        self.waiting = []
        self.sent = []
        self.at_ns = None

    def make_lane(self, on_end):
        lane = FakeLane(self, on_end)
        self.lanes.append(lane)
        return lane

    def make_alarm(self, callback):
        self.callback = callback
        return self

    def set(self, at_ns):
        self.at_ns = at_ns

    def close(self):
        self.at_ns = None

    def clock_ns(self):
        return self.now_ns

    def open_loop(self, schedule, lanes=1000):
        requests = {rows: (b"%d" % rows,) for rows in range(1, 5)}
        return OpenLoop(
            self.make_lane,
            most_lanes=lanes,
            rotation=Rotation(Workload(1, requests)),
            arrivals=schedule.arrivals(),
            recorder=self.recorder,
            clock_ns=self.clock_ns,
            make_alarm=self.make_alarm,
        )

    def closed_loop(self, lanes, count=None):
        return ClosedLoop(
            self.make_lane,
            lanes=lanes,
            rotation=Rotation(Workload(1, {1: (b"a", b"b", b"c")})),
            rows=1,
            count=count,
            recorder=self.recorder,
            clock_ns=self.clock_ns,
        )

    def answer(self, verdict=FINE):
        """Answer the request that has waited longest."""
        lane = self.waiting.pop(0)
        lane._end(verdict)

    def advance(self, to_ns):
        """Let time pass: the alarm rings when it should."""
        while self.at_ns is not None and self.at_ns <= to_ns:
            self.now_ns, self.at_ns = max(self.now_ns, self.at_ns), None
            self.callback()
        self.now_ns = to_ns


class FakeLane(Lane):
    def __init__(self, world, on_end):
        super().__init__(on_end)
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

    def give_up(self, error):
        self.world.waiting.remove(self)
        self._end(Verdict(error))

    async def close(self):
        self.is_busy = False


def latencies_ms(recorder):
    return Durations.merged([recorder.latency.encode()])


@pytest.mark.parametrize("lanes", [1, 3, 1000])
def test_a_stall_shows_in_the_latency_of_everything_that_was_due_in_it(lanes):
    world = World()
    loop = world.open_loop(Schedule(rate=100, duration_s=3), lanes)
    loop.start(0)
    for tick in range(1, 301):  # 10 ms each; the server stands still from second 1 to second 2
        world.advance(tick * 10 * MS - 1)
        while world.waiting and not 100 < tick < 200:
            world.answer()
    world.advance(3000 * MS)
    while world.waiting:
        world.answer()
    assert loop.done.is_set()
    latency = latencies_ms(world.recorder)
    assert (latency.count, world.recorder.sent) == (300, 300)
    # Due at 1000 ms, ..., 1980 ms and answered at 2000 ms at the earliest: waits of 20 to 1000 ms.
    slow = [share for share in range(300) if latency.quantile_ms((share + 1) / 300) > 15]
    assert len(slow) == 99
    assert latency.quantile_ms(1) == pytest.approx(999, abs=2)
    assert latency.quantile_ms(0.8335) == pytest.approx(500, abs=15)


def test_a_closed_loop_counts_a_stall_once_per_connection():
    world = World()
    loop = world.closed_loop(2)
    loop.start(0)
    for tick in range(1, 301):
        world.advance(tick * 10 * MS)
        if not 100 < tick < 200:
            for _ in range(len(world.waiting)):
                world.answer()
    latency = latencies_ms(world.recorder)
    slow = [n for n in range(latency.count) if latency.quantile_ms((n + 1) / latency.count) > 15]
    assert len(slow) == 2


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, 400), min_size=1, max_size=60),
    st.booleans(),
    st.integers(1, 500),
)
def test_whatever_the_server_does_each_request_is_counted_once_from_its_intended_start(
    lanes, answer_ms, poisson, rate
):
    world = World()
    schedule = Schedule(rate=rate, poisson=poisson, count=50)
    due = [ns for ns, _ in schedule.arrivals()]
    loop = world.open_loop(schedule, lanes)
    loop.start(0)
    ended = []
    record = world.recorder.ended

    def spy(intended_ns, sent_ns, now_ns, rows, verdict):
        assert intended_ns <= sent_ns <= now_ns
        ended.append(intended_ns)
        record(intended_ns, sent_ns, now_ns, rows, verdict)

    world.recorder.ended = spy
    for gap_ms in itertools.chain(answer_ms, itertools.repeat(500)):
        world.advance(world.now_ns + gap_ms * MS)
        assert len(world.waiting) <= lanes
        if world.waiting:
            world.answer()
        if loop.done.is_set():
            break
    assert sorted(ended) == due
    assert (world.recorder.fine, world.recorder.sent) == (50, 50)
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
    assert world.recorder.waited == 0


def test_lag_of_the_tester_is_measured_and_told_apart_from_waiting_for_a_lane():
    world = World()
    loop = world.open_loop(Schedule(rate=1000, count=10), lanes=2)
    loop.start(0)
    world.now_ns, world.at_ns = 100 * MS, None  # the loop was stuck
    loop._tick()
    lag = Durations.merged([world.recorder.schedule_lag.encode()])
    assert lag.count == 10
    assert 98.9 < lag.quantile_ms(1) < 99.2
    assert world.recorder.waited == 8


def test_warm_up_counts_for_nothing():
    world = World(Window(1000 * MS))
    loop = world.open_loop(Schedule(rate=10, warmup_s=1, duration_s=1))
    loop.start(0)
    for tick in range(1, 21):
        world.advance(tick * 100 * MS - 1)
        while world.waiting:
            world.answer()
    assert len(world.sent) == 20
    assert (world.recorder.sent, world.recorder.fine, world.recorder.answers) == (10, 10, 10)


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
    assert (world.recorder.fine, world.recorder.answers) == (10, 4)
    assert latencies_ms(world.recorder).quantile_ms(1) > 4500


def test_patience_ends_requests_whether_they_were_sent_or_not():
    world = World()
    loop = world.open_loop(Schedule(rate=10, count=5), lanes=2)
    loop.start(0)
    world.advance(1000 * MS)
    loop.expire(350 * MS, "no answer within 1 s")
    # Due at 0, 100, 200, 300 and 400 ms; the first two were sent.
    assert world.recorder.errors == {
        "no answer within 1 s": 2,
        "no answer within 1 s (never sent)": 2,
    }
    while world.waiting:
        world.answer()
    assert loop.done.is_set()
    assert world.recorder.fine == 1


def test_a_stopped_loop_abandons_what_has_no_answer():
    world = World()
    loop = world.open_loop(Schedule(rate=10), lanes=2)
    loop.start(0)
    world.advance(450 * MS)
    loop.stop()
    assert not loop.done.is_set()
    loop.abandon()
    assert (world.recorder.sent, world.recorder.abandoned) == (5, 5)


@given(st.integers(1, 9), st.integers(1, 60))
def test_a_closed_loop_sends_exactly_the_count_in_rotation(lanes, count):
    world = World()
    loop = world.closed_loop(lanes, count)
    loop.start(0)
    while world.waiting:
        assert len(world.waiting) == loop.in_flight <= lanes
        world.now_ns += MS
        world.answer()
    assert loop.done.is_set()
    assert (world.recorder.sent, world.recorder.fine) == (count, count)
    assert [request for _, request in world.sent] == [
        b"abc"[i % 3 : i % 3 + 1] for i in range(count)
    ]


def test_a_client_whose_connection_is_lost_does_not_spin():
    async def main():
        world = World()
        loop = world.closed_loop(1)
        loop.start(0)
        type(world.lanes[0]).is_open = property(lambda _: False)
        try:
            world.answer(Verdict("connection lost"))
            assert world.waiting == []
            loop.stop()
            await asyncio.wait_for(loop.done.wait(), 10)
        finally:
            type(world.lanes[0]).is_open = property(lambda _: True)
        assert world.recorder.errors == {"connection lost": 1}

    asyncio.run(main())
