import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictions import applied, close, shares, values, weights_for
from scipy import stats

from workers.rules.builtin import (
    geometric_mean,
    maximum,
    mean,
    median,
    minimum,
    trimmed,
    trimmed_mean,
    weighted_mean,
)


def wide(predictions):
    return predictions.astype(np.longdouble)


def scale(predictions):
    return float(np.abs(predictions).max())


@given(values)
def test_mean(predictions):
    close(applied(mean, predictions), wide(predictions).mean(axis=0), scale(predictions))


@given(values, st.data())
def test_weighted_mean(predictions, data):
    weights = data.draw(weights_for(predictions))
    wanted = np.average(wide(predictions), axis=0, weights=weights)
    close(applied(weighted_mean, predictions, weights), wanted, scale(predictions))


@given(values)
def test_equal_weights_are_the_mean(predictions):
    weights = np.full(len(predictions), 0.3)
    answer = applied(weighted_mean, predictions, weights)
    close(answer, applied(mean, predictions), scale(predictions))


@given(values)
def test_median(predictions):
    wanted = np.median(wide(predictions), axis=0)
    close(applied(median, predictions), wanted, scale(predictions))


@given(values, st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.4, 0.49]))
def test_trimmed_mean(predictions, trim):
    wanted = stats.trim_mean(wide(predictions), trim, axis=0)
    close(applied(trimmed_mean, predictions, trim=trim), wanted, scale(predictions))


@pytest.mark.parametrize(
    ("members", "trim", "cut"),
    [(5, 0.2, 1), (4, 0.2, 0), (9, 0.2, 1), (10, 0.2, 2), (100, 0.29, 29), (3, 1 / 3, 1)]
    + [(members, 0.4999999999, (members - 1) // 2) for members in (1, 2, 3, 4, 63, 64)],
)
def test_how_many_are_cut_at_each_end(members, trim, cut):
    assert trimmed(members, trim) == cut


def test_an_outlier_is_cut_and_of_few_members_it_is_the_mean():
    predictions = np.array([1, 2, 3, 4, 1000], np.float32).reshape(5, 1, 1)
    assert applied(trimmed_mean, predictions) == 3
    assert applied(trimmed_mean, predictions[1:]) == (2 + 3 + 4 + 1000) / 4


@given(values)
def test_max_and_min(predictions):
    np.testing.assert_array_equal(applied(maximum, predictions), predictions.max(axis=0))
    np.testing.assert_array_equal(applied(minimum, predictions), predictions.min(axis=0))


@given(shares)
def test_geometric_mean(predictions):
    with np.errstate(divide="ignore"):
        products = stats.gmean(predictions.astype(np.float64), axis=0)
    totals = products.sum(axis=-1, keepdims=True)
    ruled_out = totals == 0
    wanted = np.where(
        ruled_out, 1 / predictions.shape[-1], products / np.where(ruled_out, 1, totals)
    )
    answer = applied(geometric_mean, predictions)
    close(answer, wanted)
    close(answer.sum(axis=-1), 1.0)


def test_geometric_mean_of_tiny_probabilities_does_not_underflow():
    tiny = np.array([[[1e-30, 3e-30]], [[1e-30, 3e-30]], [[1e-30, 3e-30]]], np.float32)
    close(applied(geometric_mean, tiny), [[0.25, 0.75]])


def test_geometric_mean_rules_out_and_knows_no_better_if_all_is_ruled_out():
    ruled_out = np.array([[[0.0, 0.5, 0.5], [1, 0, 0]], [[0.9, 0.0, 0.1], [0, 1, 0]]], np.float32)
    close(applied(geometric_mean, ruled_out), [[0, 0, 1], [1 / 3, 1 / 3, 1 / 3]])
