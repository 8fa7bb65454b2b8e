from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictions import applied, close, shares, ties, values, whole_weights_for
from scipy import stats

from workers.rules.builtin import rank_average, vote, weighted_vote


def counted(member_rows, weights):
    """The shares and the winner of one row, in whole numbers and fractions.

    Args:
        member_rows: each member's outputs.
        weights: each member's.
    """
    weights = [Fraction(weight) for weight in weights]
    votes = [Fraction(0)] * len(member_rows[0])
    sums = [Fraction(0)] * len(member_rows[0])
    for row, weight in zip(member_rows, weights, strict=True):
        votes[row.index(max(row))] += weight
        sums = [total + weight * Fraction(p) for total, p in zip(sums, row, strict=True)]
    winner = max(range(len(votes)), key=lambda c: (votes[c], sums[c], -c))
    return [float(count / sum(weights)) for count in votes], winner


def check(rule, predictions, weights):
    answer = applied(rule, predictions, weights)
    for i, row in enumerate(answer):
        member_rows = [one.tolist() for one in predictions[:, i]]
        wanted, winner = counted(member_rows, weights)
        np.testing.assert_allclose(row, wanted, rtol=3e-7, atol=0)
        assert row.argmax() == winner
        assert (row == row.max()).sum() == 1, "the winner's share is the largest alone"


@given(ties)
def test_vote(predictions):
    check(vote, predictions, np.ones(len(predictions)))


@given(ties, st.data())
def test_weighted_vote(predictions, data):
    check(weighted_vote, predictions, data.draw(whole_weights_for(predictions)))


@given(values)
def test_votes_need_no_probabilities(predictions):
    answer = applied(vote, predictions)
    best = predictions.argmax(axis=-1)
    for c in range(predictions.shape[-1]):
        close(answer[:, c], (best == c).mean(axis=0))


def test_shares_are_exact_where_nobody_ties():
    predictions = np.array([[[0, 1]], [[0, 1]], [[0, 1]], [[1, 0]]], np.float32)
    assert applied(vote, predictions).tolist() == [[0.25, 0.75]]


def test_a_tie_goes_to_the_larger_sum_then_to_the_first():
    predictions = np.array(
        [[[0.6, 0.4, 0], [0.5, 0.5, 0]], [[0.3, 0.7, 0], [0.5, 0.5, 0]]], np.float32
    )
    answer = applied(vote, predictions)
    assert answer[0].argmax() == 1
    assert answer[0, 1] == np.nextafter(np.float32(0.5), np.float32(1))
    assert answer[0, 0] == 0.5
    assert answer[1].tolist() == [1, 0, 0], "a member's own tie goes to its first"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weights", [(0.1, 0.2, 0.3), (0.3, 0.3, 0.6000001), (1, 2, 3 - 1e-9)])
def test_sums_of_weights_that_rounding_alone_tells_apart_tie(dtype, weights):
    """The last member alone against the other two; the sum of the outputs decides."""
    for sure, mild, winner in (([0.9, 0.1], [0.49, 0.51], 0), ([0.2, 0.8], [0.51, 0.49], 1)):
        predictions = np.array([[sure], [sure], [mild]], dtype)
        assert applied(weighted_vote, predictions, weights)[0].argmax() == winner


def test_infinite_outputs_do_not_stop_a_vote():
    predictions = np.array([[[-np.inf, -np.inf]], [[-np.inf, np.inf]]])
    assert applied(vote, predictions)[0].argmax() == 1
    lowest = np.full((2, 1, 2), -np.inf)
    assert applied(vote, lowest).tolist() == [[1, 0]]


@given(shares)
def test_rank_average(predictions):
    count = predictions.shape[-1]
    ranks = stats.rankdata(predictions, method="average", axis=-1).mean(axis=0)
    wanted = (ranks - 1) / (count - 1) if count > 1 else np.ones_like(ranks)
    answer = applied(rank_average, predictions)
    close(answer, wanted)
    close(answer.mean(axis=-1), 0.5 if count > 1 else 1.0)


@given(ties)
def test_rank_average_with_ties(predictions):
    count = predictions.shape[-1]
    ranks = stats.rankdata(predictions, method="average", axis=-1).mean(axis=0)
    wanted = (ranks - 1) / (count - 1) if count > 1 else np.ones_like(ranks)
    close(applied(rank_average, predictions), wanted)


@pytest.mark.parametrize("rule", [vote, weighted_vote, rank_average])
def test_candidates_are_along_the_last_axis(rule):
    generator = np.random.default_rng(0)
    predictions = generator.choice([0.0, 0.5, 1.0], (4, 3, 2, 5)).astype(np.float32)
    together = applied(rule, predictions, [1, 2, 2, 1])
    for i in range(2):
        alone = applied(rule, np.ascontiguousarray(predictions[:, :, i]), [1, 2, 2, 1])
        np.testing.assert_array_equal(together[:, i], alone)
