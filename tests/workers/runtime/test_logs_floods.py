"""A flood is a few lines and a number."""

import logging

from workers.runtime.logs import FloodFilter


def complaint(line=1, level=logging.WARNING):
    return logging.LogRecord("a", level, "f.py", line, "oh %d", (1,), None)


def test_a_place_in_the_code_complains_twenty_times_in_ten_seconds():
    now = 5.0
    flood = FloodFilter(lambda: now)
    assert [flood.filter(complaint()) for _ in range(50)] == [True] * 20 + [False] * 30
    assert flood.filter(complaint(line=2))
    now = 14.9
    assert not flood.filter(complaint())
    now = 15.0
    told = complaint()
    assert flood.filter(told)
    assert told.left_out == 31
    told = complaint()
    assert flood.filter(told)
    assert not hasattr(told, "left_out")


def test_what_is_no_complaint_always_passes():
    flood = FloodFilter(lambda: 0.0)
    assert all(flood.filter(complaint(level=logging.INFO)) for _ in range(100))
