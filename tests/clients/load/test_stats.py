"""Histograms of durations."""

import math
import pickle

import pytest
from ensembled_client.load.stats import DurationHistogram
from hypothesis import given
from hypothesis import strategies as st

NANOSECONDS = st.lists(st.integers(0, 10**11), max_size=60)


def of(values):
    durations = DurationHistogram()
    for value in values:
        durations.record(value)
    return durations


@given(st.lists(NANOSECONDS, min_size=1, max_size=5))
def test_the_sum_of_parts_is_the_whole(parts):
    merged = sum(map(of, parts), DurationHistogram())
    merged = pickle.loads(pickle.dumps(merged))  # as it comes out of a load process
    whole = of([value for part in parts for value in part])
    shares = [0, 0.1, 0.5, 0.9, 0.99, 0.999, 1]
    assert merged.count == whole.count
    assert merged.quantiles_ms(shares) == whole.quantiles_ms(shares)
    assert merged.mean_ms == whole.mean_ms
    assert merged.min_ms == whole.min_ms


@given(st.lists(st.integers(100_000, 10**11), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantiles_are_those_of_the_values(values, share):
    values.sort()
    found_ns = of(values).quantiles_ms([share])[0] * 1e6
    # The library rounds the rank to the nearest; the value to three digits, up.
    ranks = {max(1, math.floor(share * len(values) + 0.5)), max(1, math.ceil(share * len(values)))}
    assert any(
        value * 0.999 <= found_ns <= value * 1.002 + 64 for value in (values[r - 1] for r in ranks)
    )


@given(st.lists(st.integers(0, 10**11), min_size=1))
def test_mean_and_minimum_are_exact(values):
    durations = of(values)
    assert durations.mean_ms == pytest.approx(sum(values) / len(values) / 1e6)
    assert durations.min_ms == min(values) / 1e6


def test_nothing_recorded_is_all_zero():
    durations = DurationHistogram() + DurationHistogram()
    assert (durations.count, durations.mean_ms, durations.min_ms) == (0, 0, 0)
    assert durations.quantiles_ms([0.5, 1]) == [0, 0]


def test_what_is_out_of_range_counts_as_the_nearest():
    durations = of([-5, 10**15])
    assert durations.count == 2
    assert durations.min_ms == 0
    assert durations.quantiles_ms([1])[0] == pytest.approx(3600e3, rel=0.001)
