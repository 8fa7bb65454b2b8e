import random

import pytest

from benchmarks.trends import trend


def line(slope_per_hour, *, start=0.0, level=50.0, count=200, noise=0.0, seed=1):
    """A sample every five seconds."""
    draw = random.Random(seed)
    return [
        (
            start + 5.0 * i,
            level + slope_per_hour * 5.0 * i / 3600 + draw.gauss(0, 1) * noise,
        )
        for i in range(count)
    ]


def test_a_line_is_found_exactly():
    found = trend([line(12.0)], 30.0)
    assert found is not None
    assert (found.per_hour, found.low, found.high) == pytest.approx((12.0,) * 3)
    assert found.grows


def test_each_group_has_a_level_of_its_own():
    """Lives of a process: each starts higher than the one before, none of them grows."""
    flat = [line(0.0, level=50.0 + i, start=1000.0 * i, noise=0.1, seed=i) for i in range(5)]
    found = trend(flat, 30.0)
    assert found is not None
    assert not found.grows
    together = trend([[sample for life in flat for sample in life]], 30.0)
    assert together is not None
    assert together.grows


def test_the_interval_covers_the_slope_as_often_as_it_says():
    found = [trend([line(6.0, noise=2.0, seed=seed)], 30.0) for seed in range(400)]
    covered = sum(one is not None and one.low <= 6.0 <= one.high for one in found)
    assert 0.91 * 400 <= covered <= 0.99 * 400


@pytest.mark.parametrize("groups", [[], [line(1.0, count=12)], [line(1.0, count=6)] * 3])
def test_too_few_samples(groups):
    assert trend(groups, 30.0) is None
