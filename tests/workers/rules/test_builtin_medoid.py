from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictions import applied, values, weights_for, whole, whole_weights_for
from scipy.spatial import distance

from workers.rules.builtin import medoid


def nearest(member_rows, weights):
    """Which member is nearest to the centroid of one row, in fractions; the first of them."""
    weights = [Fraction(weight) for weight in weights]
    total = sum(weights)
    centroid = [
        sum(w * Fraction(x) for w, x in zip(weights, column, strict=True)) / total
        for column in zip(*member_rows, strict=True)
    ]
    squares = [
        sum((Fraction(x) - c) ** 2 for x, c in zip(row, centroid, strict=True))
        for row in member_rows
    ]
    return squares.index(min(squares))


@given(whole, st.data())
def test_medoid_in_whole_numbers(predictions, data):
    """Ties are many, and as exact as they are on paper."""
    for weights in (np.ones(len(predictions)), data.draw(whole_weights_for(predictions))):
        answer = applied(medoid, predictions, weights)
        for i, row in enumerate(answer):
            chosen = nearest([one.tolist() for one in predictions[:, i]], weights)
            np.testing.assert_array_equal(row, predictions[chosen, i])


@given(values, st.data())
def test_medoid_is_a_member_and_none_is_nearer(predictions, data):
    weights = data.draw(weights_for(predictions))
    answer = applied(medoid, predictions, weights)
    for i, row in enumerate(answer):
        members = predictions[:, i].astype(np.float64)
        assert any((row == member).all() for member in members)
        centroid = np.average(members, axis=0, weights=weights)[np.newaxis]
        distances = distance.cdist(members, centroid)
        own = distance.cdist(row[np.newaxis].astype(np.float64), centroid)
        scale = max(1.0, np.abs(members).max())
        assert own <= distances.min() * (1 + 1e-8) + 1e-9 * scale


def test_an_action_that_was_proposed():
    """Two avoid the obstacle on the left, one on the right: the mean would hit it."""
    predictions = np.array([[[-1.0]], [[1.0]], [[-0.9]]], np.float32)
    assert applied(medoid, predictions) == np.float32(-0.9)


def test_weights_move_the_centroid():
    predictions = np.array([[[0.0, 0]], [[1.0, 0]], [[4.0, 0]]])
    assert applied(medoid, predictions)[0, 0] == 1
    assert applied(medoid, predictions, [1, 1, 20])[0, 0] == 4


def test_of_two_the_first_and_of_one_itself():
    generator = np.random.default_rng(1)
    predictions = generator.normal(size=(2, 50, 3))
    np.testing.assert_array_equal(applied(medoid, predictions), predictions[0])
    np.testing.assert_array_equal(applied(medoid, predictions[1:]), predictions[1])


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_outputs_of_any_shape_are_one_action(shape):
    generator = np.random.default_rng(2)
    predictions = generator.normal(size=(5, 4, *shape)).astype(np.float32)
    flat = applied(medoid, predictions.reshape(5, 4, -1))
    np.testing.assert_array_equal(applied(medoid, predictions), flat.reshape(4, *shape))


def test_infinite_actions_are_no_error():
    predictions = np.array([[[np.inf]], [[1.0]], [[2.0]]])
    assert applied(medoid, predictions) == np.inf
