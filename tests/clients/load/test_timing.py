"""How the load tester measures itself, with a clock that the test turns."""

import pytest
from ensembled_client.load import generator
from ensembled_client.load.stats import CpuUsage, DurationHistogram, current_usage

MS = 1_000_000


class World:
    """The clock, and the one timer that is set by it."""

    def __init__(self):
        self.now_ns = 0
        self.at_ns = None

    def new_timer(self, callback):
        self.callback = callback
        return self

    def set(self, at_ns):
        self.at_ns = at_ns

    def close(self):
        self.at_ns = None

    def monotonic_ns(self):
        return self.now_ns


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(generator, "new_timer", world.new_timer)
    monkeypatch.setattr(generator, "time", world)
    return world


def watched(world, *late_ms):
    """A monitor whose loop was late by so many milliseconds, one tick after the other."""
    lags = DurationHistogram()
    monitor = generator.LagMonitor(lags)
    monitor.start()
    for late in late_ms:
        world.now_ns = world.at_ns + late * MS
        world.callback()
    return monitor, lags


def test_a_loop_on_time_has_no_lag(world):
    _, lags = watched(world, 0, 0, 0)
    assert lags.count == 3
    assert lags.quantiles_ms([1])[0] < 0.001


def test_a_stuck_loop_was_late_for_every_look_that_it_missed(world):
    _, lags = watched(world, 0, 100)
    # Due 20 ms apart: the first was 100 ms late, the next ones 80, 60, 40, 20 and 0.
    assert lags.count == 1 + 6
    assert 99.9 < lags.quantiles_ms([1])[0] < 100.2
    assert world.at_ns > world.now_ns


def test_a_closed_monitor_sets_no_more_timers(world):
    monitor, _ = watched(world, 1)
    monitor.close()
    assert world.at_ns is None


def test_usage_is_the_difference_of_two_readings():
    used = CpuUsage(200, 60, 11, 90) - CpuUsage(100, 10, 1, 20)
    assert used == CpuUsage(100, 50, 10, 70)
    assert used.busy_share == 0.6


def test_waiting_for_a_core_is_being_busy():
    assert CpuUsage(100, 20, 75, 20).busy_share == 0.95
    assert CpuUsage(100, 80, 75, 80).busy_share == 1.0
    assert CpuUsage(0, 0, 0, 0).busy_share == 0.0


def test_usage_only_grows():
    before = current_usage()
    sum(range(10_000))
    used = current_usage() - before
    assert used.wall_ns > 0
    assert used.thread_ns >= 0
    assert used.wait_ns >= 0
