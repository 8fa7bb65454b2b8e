import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from workers.rules import RULES

members, rows, classes = st.integers(1, 6), st.integers(1, 4), st.integers(1, 5)
shapes = st.tuples(members, rows, classes)
dtypes = st.sampled_from([np.float32, np.float64])


def predictions(low, high):
    return st.tuples(shapes, dtypes).flatmap(
        lambda drawn: arrays.arrays(
            drawn[1],
            drawn[0],
            elements=st.floats(low, high, width=32, allow_subnormal=False),
        )
    )


values = predictions(-1e6, 1e6)
shares = predictions(0.0, 1.0)


def apply(name, given_predictions, weights=None):
    """The rule's answer, written into every second column: the arena's answers are strided."""
    count = len(given_predictions)
    weights = np.ones(count) if weights is None else weights
    kept = given_predictions.copy()
    padded = np.full((*given_predictions.shape[1:], 2), np.nan, given_predictions.dtype)
    out = padded[..., 0]
    RULES[name](given_predictions, weights, out)
    np.testing.assert_array_equal(given_predictions, kept, err_msg="predictions are not modified")
    assert np.isnan(padded[..., 1]).all(), "nothing else is written"
    return out


def expected(given_predictions, combine):
    """`combine` the members' rows, each a list of floats, in pure Python."""
    _, row_count, _ = given_predictions.shape
    return np.array(
        [combine([row.tolist() for row in given_predictions[:, i]]) for i in range(row_count)]
    )


def per_output(combine):
    return lambda member_rows: [combine(column) for column in zip(*member_rows, strict=True)]


def close(answer, wanted, scale=1.0):
    np.testing.assert_allclose(answer, wanted, rtol=1e-5, atol=1e-5 * max(1.0, scale))


@given(values)
def test_mean(given_predictions):
    wanted = expected(given_predictions, per_output(lambda column: math.fsum(column) / len(column)))
    close(apply("mean", given_predictions), wanted, np.abs(given_predictions).max())


@given(values, st.data())
def test_weighted_mean(given_predictions, data):
    count = len(given_predictions)
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=count, max_size=count))

    def combine(column):
        return math.fsum(w * p for w, p in zip(weights, column, strict=True)) / math.fsum(weights)

    close(
        apply("weighted_mean", given_predictions, np.array(weights)),
        expected(given_predictions, per_output(combine)),
        np.abs(given_predictions).max(),
    )


@given(values)
def test_median(given_predictions):
    wanted = expected(given_predictions, per_output(statistics.median))
    close(apply("median", given_predictions), wanted, np.abs(given_predictions).max())


@given(values)
def test_max(given_predictions):
    wanted = expected(given_predictions, per_output(max))
    np.testing.assert_array_equal(apply("max", given_predictions), wanted)


@given(shares)
def test_geometric_mean(given_predictions):
    def combine(member_rows):
        products = [
            math.prod(p ** (1 / len(column)) for p in column)
            for column in zip(*member_rows, strict=True)
        ]
        total = math.fsum(products)
        return [p / total for p in products] if total else [1 / len(products)] * len(products)

    answer = apply("geometric_mean", given_predictions)
    close(answer, expected(given_predictions, combine))
    close(answer.sum(axis=-1), 1.0)


def test_geometric_mean_of_tiny_probabilities_does_not_underflow():
    tiny = np.array([[[1e-30, 3e-30]], [[1e-30, 3e-30]], [[1e-30, 3e-30]]], np.float32)
    close(apply("geometric_mean", tiny), [[0.25, 0.75]])


def test_geometric_mean_rules_out_and_knows_no_better_if_all_is_ruled_out():
    ruled_out = np.array([[[0.0, 0.5, 0.5], [1, 0, 0]], [[0.9, 0.0, 0.1], [0, 1, 0]]], np.float32)
    close(apply("geometric_mean", ruled_out), [[0, 0, 1], [1 / 3, 1 / 3, 1 / 3]])


@given(shares)
def test_vote(given_predictions):
    def combine(member_rows):
        votes = [0] * len(member_rows[0])
        for row in member_rows:
            votes[row.index(max(row))] += 1
        return [count / len(member_rows) for count in votes]

    close(apply("vote", given_predictions), expected(given_predictions, combine))


@pytest.mark.parametrize("name", sorted(RULES))
def test_one_member_alone(name):
    alone = np.array([[[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]]], np.float32)
    wanted = [[0, 1, 0], [0, 0, 1]] if name == "vote" else alone[0]
    close(apply(name, alone), wanted)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"vote", "geometric_mean"}))
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_outputs_of_any_shape(name, shape):
    given_predictions = np.arange(3 * 2 * math.prod(shape), dtype=np.float32)
    given_predictions = given_predictions.reshape(3, 2, *shape)
    wanted = given_predictions[2 if name == "max" else 1]
    close(apply(name, given_predictions), wanted)
