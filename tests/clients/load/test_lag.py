"""How the tester measures itself, with a clock that the test turns."""

from ensembled_client.load.lag import LoopWatch, Usage, UsageMeter, usage_now

MS = 1_000_000


class Clock:
    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        return self.now_ns


class Alarm:
    def __init__(self, callback):
        self.callback = callback
        self.at_ns = None

    def set(self, at_ns):
        self.at_ns = at_ns

    def close(self):
        self.at_ns = None


def watched(*late_ms):
    """A watch whose loop was late by so many milliseconds, one tick after the other."""
    clock = Clock()
    alarms = []
    watch = LoopWatch(lambda callback: alarms.append(Alarm(callback)) or alarms[0], clock)
    watch.start()
    for late in late_ms:
        clock.now_ns = alarms[0].at_ns + late * MS
        alarms[0].callback()
    return watch, alarms[0], clock


def test_a_loop_on_time_has_no_lag():
    watch, _, _ = watched(0, 0, 0)
    assert watch.lags.count == 3
    assert watch.lags.quantile_ms(1) < 0.001


def test_a_stuck_loop_was_late_for_every_look_that_it_missed():
    watch, alarm, clock = watched(0, 100)
    # Due 20 ms apart: the first was 100 ms late, the next ones 80, 60, 40, 20 and 0.
    assert watch.lags.count == 1 + 6
    assert 99.9 < watch.lags.quantile_ms(1) < 100.2
    assert alarm.at_ns > clock.now_ns


def test_a_closed_watch_wants_no_more_calls():
    watch, alarm, _ = watched(1)
    watch.close()
    assert alarm.at_ns is None


def test_usage_is_what_was_used_between_start_and_stop():
    readings = iter([Usage(100, 10, 1, 20), Usage(200, 60, 11, 90)])
    meter = UsageMeter(lambda: next(readings))
    meter.start()
    meter.stop()
    meter.stop()
    assert meter.used == Usage(100, 50, 10, 70)
    assert meter.used.busy_share == 0.6


def test_waiting_for_a_core_is_being_busy():
    assert Usage(100, 20, 75, 20).busy_share == 0.95
    assert Usage(100, 80, 75, 80).busy_share == 1.0
    assert Usage(0, 0, 0, 0).busy_share == 0.0


def test_a_meter_that_was_not_started_has_nothing():
    assert UsageMeter().used == Usage(0, 0, 0, 0)


def test_usage_only_grows():
    before = usage_now()
    sum(range(10_000))
    used = usage_now() - before
    assert used.wall_ns > 0
    assert used.loop_ns >= 0
    assert used.wait_ns >= 0
