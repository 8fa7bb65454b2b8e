"""How the load tester measures itself, with a clock that the test turns."""

from ensembled_client.load.stats import DurationHistogram
from ensembled_client.load.timing import CpuUsage, LagMonitor, current_usage

MS = 1_000_000


class Clock:
    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        return self.now_ns


class FakeTimer:
    def __init__(self, callback):
        self.callback = callback
        self.at_ns = None

    def set(self, at_ns):
        self.at_ns = at_ns

    def close(self):
        self.at_ns = None


def watched(*late_ms):
    """A monitor whose loop was late by so many milliseconds, one tick after the other."""
    clock = Clock()
    timers = []
    lags = DurationHistogram()
    monitor = LagMonitor(
        lags.record, lambda callback: timers.append(FakeTimer(callback)) or timers[0], clock
    )
    monitor.start()
    for late in late_ms:
        clock.now_ns = timers[0].at_ns + late * MS
        timers[0].callback()
    return monitor, lags, timers[0], clock


def test_a_loop_on_time_has_no_lag():
    _, lags, _, _ = watched(0, 0, 0)
    assert lags.count == 3
    assert lags.quantiles_ms([1])[0] < 0.001


def test_a_stuck_loop_was_late_for_every_look_that_it_missed():
    _, lags, timer, clock = watched(0, 100)
    # Due 20 ms apart: the first was 100 ms late, the next ones 80, 60, 40, 20 and 0.
    assert lags.count == 1 + 6
    assert 99.9 < lags.quantiles_ms([1])[0] < 100.2
    assert timer.at_ns > clock.now_ns


def test_a_closed_monitor_sets_no_more_timers():
    monitor, _, timer, _ = watched(1)
    monitor.close()
    assert timer.at_ns is None


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
