"""How far predictions move, and what is said of shares of few rows."""

import numpy as np
import pytest
from inspected import meaning

from server.variants.checking import Interval, measure_movement, measure_quality
from workers.runtime.spec import TensorSpec

CLASSES = meaning("m", "logits").output
NUMBERS = meaning("n", "values", TensorSpec("y", "FP32", (2,))).output


@pytest.mark.parametrize(
    ("share", "rows", "low", "high"),
    [(0.0, 100, 0.0, 0.0370), (0.5, 100, 0.4038, 0.5962), (1.0, 20, 0.8389, 1.0)],
)
def test_intervals_of_shares(share, rows, low, high):
    found = Interval.of(share, rows)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_classes_differ_if_the_best_one_does():
    before = np.array([[0.6, 0.3, 0.1]] * 4, np.float32)
    after = before.copy()
    after[1] = [0.3, 0.6, 0.1]
    after[2] = [0.5, 0.3, 0.2]
    found = measure_movement(CLASSES, before, after, 0.01)
    assert found.disagreement.share == 0.25
    assert found.max_difference == pytest.approx(0.3)
    assert found.mean_difference == pytest.approx((0.6 + 0.2) / 12)
    quality = measure_quality(CLASSES, after, np.array([0, 0, 0, 1]))
    assert (quality.measure, quality.value) == ("accuracy", 0.5)
    assert quality.interval.low < 0.5 < quality.interval.high


def test_numbers_differ_by_more_than_the_tolerance():
    before = np.array([[1.0, 100.0], [0.0, 1.0]], np.float32)
    after = np.array([[1.0, 100.5], [0.0, 1.5]], np.float32)
    found = measure_movement(NUMBERS, before, after, 0.01)
    assert found.disagreement.share == 0.25  # one of the two numbers of a row
    quality = measure_quality(NUMBERS, after, before.astype(np.float64))
    assert (quality.measure, quality.interval) == ("rmse", None)
    assert quality.value == pytest.approx(np.sqrt(0.5 / 4))
