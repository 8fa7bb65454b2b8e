"""How far two answers agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.rollout.agreement import Values, compare

ANY_ROWS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=4),
    elements=st.floats(allow_nan=True, allow_infinity=True),
)


def numbers(first, second, tolerance=0.001):
    return compare(Values(np.array(first)), Values(np.array(second)), tolerance)


def test_classes_agree_by_their_best():
    first = Values(np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]]), -1)
    second = Values(np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4]]), -1)
    assert compare(first, second, 0) == (3, 1.0, 0.0)


def test_classes_agree_by_label_where_both_have_labels():
    first = Values(np.array([[0.9, 0.1]]), -1, ("cat", "dog"))
    moved = Values(np.array([[0.1, 0.0, 0.9]]), -1, ("dog", "bird", "cat"))
    assert compare(first, moved, 0).disagreeing == 0
    assert compare(first, moved._replace(labels=()), 0).disagreeing == 1


def test_a_map_of_classes_disagrees_by_its_share_of_points():
    first = np.zeros((1, 2, 2, 3))
    second = first.copy()
    second[0, 0, 0, 2] = 1
    assert compare(Values(first, -1), Values(second, -1), 0).disagreeing == 0.25
    other_shape = Values(np.zeros((1, 3, 2, 3)), -1)
    assert compare(Values(first, -1), other_shape, 0).disagreeing == 1


def test_numbers_agree_within_the_tolerance():
    assert numbers([[0.5], [100.0], [3.0]], [[0.5009], [100.09], [3.5]]) == (3, 1.0, 0.5)


def test_integers_are_numbers():
    assert numbers(np.array([[3]], np.uint8), np.array([[5]], np.uint8)) == (1, 1.0, 2.0)


def test_shapes_that_differ_disagree():
    assert numbers([[1.0, 2.0]] * 2, [[1.0]] * 2) == (2, 2, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_agrees_with_itself_alone(value):
    assert numbers([[value]], [[value]]).disagreeing == 0
    assert numbers([[value]], [[1.0]]).disagreeing == 1
    assert numbers([[1.0]], [[value]], tolerance=1e300).disagreeing == 1


@given(values=ANY_ROWS, tolerance=st.floats(0, 10))
def test_everything_agrees_with_itself(values, tolerance):
    assert compare(Values(values), Values(values.copy()), tolerance) == (len(values), 0.0, 0.0)


@given(values=ANY_ROWS)
def test_rows_that_disagree_are_at_most_all(values):
    found = compare(Values(values), Values(values[::-1]), 0.0)
    assert 0 <= found.disagreeing <= found.rows == len(values)
