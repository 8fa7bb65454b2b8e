"""Pareto fronts, their hypervolume and their knee."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from server.selection.fronts import hypervolume, knee, nondominated, spread

whole = st.integers(0, 4).map(float)
points = st.integers(1, 3).flatmap(
    lambda objectives: arrays.arrays(
        np.float64, st.tuples(st.integers(1, 8), st.just(objectives)), elements=whole
    )
)


@given(points)
def test_the_front_is_what_no_other_point_dominates(values):
    front = nondominated(values)
    expected = {
        tuple(one)
        for one in values
        if not any((other >= one).all() and (other > one).any() for other in values)
    }
    assert [tuple(values[i]) for i in front] == sorted(expected, reverse=True)


def test_an_infinitely_bad_objective_leaves_the_best_of_the_other():
    assert nondominated(np.array([[1.0, -np.inf], [2.0, -np.inf]])).tolist() == [1]


@given(points)
def test_the_hypervolume_counts_the_cells_below_the_points(values):
    cells = np.stack(np.meshgrid(*[np.arange(4)] * values.shape[1], indexing="ij"), axis=-1)
    corners = cells.reshape(-1, values.shape[1]) + 1
    covered = (values[:, np.newaxis] >= corners).all(axis=2).any(axis=0).sum()
    assert hypervolume(values, np.zeros(values.shape[1])) == pytest.approx(covered)


def test_what_is_not_above_the_reference_has_no_volume():
    values = np.array([[0.5, 3.0], [2.0, 1.0]])
    assert hypervolume(values, np.array([1.0, 0.0])) == 1
    assert hypervolume(values, np.array([3.0, 0.0])) == 0


def test_the_knee_is_farthest_above_the_chord():
    gains, costs = np.array([1.0, 0.95, 0.4, 0.0]), np.array([0.0, 5.0, 8.0, 10.0])
    assert knee(gains, costs) == 1
    assert knee(10 * gains - 3, 2 * costs) == 1


def test_of_equally_good_points_the_knee_is_the_cheapest():
    assert knee(np.array([1.0, 1.0, 1.0]), np.array([1.0, 3.0, 2.0])) == 1
    assert knee(np.array([1.0]), np.array([1.0])) == 0


@given(st.integers(0, 50), st.integers(1, 9))
def test_a_spread_has_both_ends(count, most):
    chosen = spread(count, most).tolist()
    assert len(set(chosen)) == len(chosen) == min(count, most)
    if count and most > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
