"""Scores, thresholds, sets and intervals of conformal prediction, against their definitions."""

import numpy as np
import pytest

from server.inference.conformal import (
    ConformalSpec,
    TooFewRows,
    class_scores,
    interval,
    interval_scores,
    threshold_rank,
    thresholds,
)

P = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]], np.float32)


@pytest.mark.parametrize(
    ("coverage", "rows", "rank"),
    [(0.9, 99, 90), (0.9, 100, 91), (0.9, 9, 9), (0.5, 1, 1), (0.01, 5, 1), (0.95, 19, 19)],
)
def test_the_threshold_is_the_finite_sample_quantile(coverage, rows, rank):
    assert threshold_rank(coverage, rows) == rank


@pytest.mark.parametrize(
    ("coverage", "rows", "needed"), [(0.9, 8, 9), (0.95, 18, 19), (0.99, 9, 99)]
)
def test_too_few_rows_name_how_many_are_needed(coverage, rows, needed):
    with pytest.raises(TooFewRows, match=f"needs {needed} calibration rows, there were {rows}"):
        threshold_rank(coverage, rows)
    assert threshold_rank(coverage, needed) == needed


def test_where_scores_were_thinned_the_next_larger_one_is_the_threshold():
    spec = ConformalSpec("absolute", 99, (1, 50, 99), ((0.0, 1.0, 2.0), (10.0, 20.0, 30.0)))
    assert thresholds(spec, 0.5).tolist() == [1, 20]
    assert thresholds(spec, 0.51).tolist() == [2, 30]


def test_lac_scores_what_is_missing_to_certainty():
    np.testing.assert_allclose(class_scores(P, "lac"), 1 - P.astype(np.float64))


def test_aps_scores_the_mass_before_a_class_and_a_share_of_its_own():
    scores = class_scores(P, "aps")
    share = scores[0, 0] / P[0, 0]
    assert 0 <= share < 1
    np.testing.assert_allclose(scores[0], [0.5 * share, 0.5 + 0.3 * share, 0.8 + 0.2 * share], 1e-6)
    # Equal probabilities rank in the classes' order.
    assert scores[1, 2] < scores[1, 0] < scores[1, 1]


def test_raps_adds_a_penalty_beyond_the_free_ranks():
    added = class_scores(P, "raps", penalty=0.1, free_rank=1) - class_scores(P, "aps")
    np.testing.assert_allclose(added, [[0, 0.1, 0.2], [0.1, 0.2, 0], [0.1, 0, 0.2]], atol=1e-12)


def test_the_share_is_uniform_and_depends_on_the_row_alone():
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(4), 20_000).astype(np.float32)
    shares = class_scores(p, "aps").min(axis=1) / p.max(axis=1)
    counts = np.histogram(shares, 10, (0, 1))[0]
    assert abs(counts - 2000).max() < 200
    assert abs(np.corrcoef(shares, p.max(axis=1))[0, 1]) < 0.03
    np.testing.assert_array_equal(class_scores(p[5:6], "aps")[0], class_scores(p, "aps")[5])


def test_an_interval_is_all_truths_within_the_threshold():
    random = np.random.default_rng(0)
    bounds = np.sort(random.normal(0, 1, (50, 3, 2)))
    scale, y = random.gamma(2, 1, (50, 3)), random.normal(0, 2, (50, 3))
    limit = np.array([0.1, 0.5, 2.0])
    for one in (None, scale):
        low, high = np.moveaxis(interval(bounds, limit, one), -1, 0)
        within = interval_scores(y, bounds, one) <= limit
        np.testing.assert_array_equal((low <= y) & (y <= high), within)


def test_a_negative_threshold_narrows_to_the_middle_at_most():
    bounds = np.array([[0.0, 4.0], [0.0, 1.0]])
    assert interval(bounds, np.array(-1.0)).tolist() == [[1, 3], [0.5, 0.5]]
