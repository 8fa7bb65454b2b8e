import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.histogram import TIMES_S, Histogram


def test_a_bound_belongs_to_what_is_below_it():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.cumulated() == [2, 4, 5]
    assert (histogram.count, histogram.sum) == (5, 7.5)


@given(st.lists(st.floats(0, 100) | st.sampled_from(TIMES_S)))
def test_each_bound_counts_what_is_not_above_it(values):
    one_by_one, together = Histogram(), Histogram()
    for value in values:
        one_by_one.observe(value)
    together.observe_all(np.array(values))
    expected = [sum(value <= bound for value in values) for bound in TIMES_S]
    assert one_by_one.cumulated() == together.cumulated() == [*expected, len(values)]
    assert together.sum == pytest.approx(one_by_one.sum)
