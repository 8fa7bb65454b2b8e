from hypothesis import given
from hypothesis import strategies as st

from server.histogram import Histogram


def test_a_bound_belongs_to_what_is_below_it():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.cumulated() == [2, 4, 5]
    assert (histogram.count, histogram.sum) == (5, 7.5)


@given(st.lists(st.floats(0, 100)))
def test_each_bound_counts_what_is_not_above_it(values):
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in histogram.bounds]
    assert histogram.cumulated() == [*expected, len(values)]
