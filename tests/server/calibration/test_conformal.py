"""Conformal sets and intervals hold the truth as often as was asked, on real and made data."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import BayesianRidge, LogisticRegression

from server.calibration.conformal import (
    IntervalData,
    evaluate_intervals,
    evaluate_sets,
    fit_intervals,
    fit_sets,
    tune_raps,
)
from server.inference.conformal import (
    SET_METHODS,
    ConformalSpec,
    TooFewRows,
    class_scores,
    thresholds,
)

#: Percentage points by which the coverage may miss, as a mean over the splits.
BAR = 0.015


@pytest.fixture(scope="module")
def digits():
    """Answers of a poor classifier, and the classes."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order][:, ::5] / 16, y[order]
    network = LogisticRegression(C=10, max_iter=1000).fit(x[:300], y[:300])
    return network.predict_proba(x[300:]).astype(np.float32), y[300:].astype(np.int64)


@pytest.fixture(scope="module")
def diabetes():
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return x[order], y[order]


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.95])
def test_sets_cover_the_digits(digits, wanted):
    answers, y = digits
    penalty, free = tune_raps(answers[:200], y[:200], wanted)
    answers, y = answers[200:], y[200:]
    specs = [fit_sets(one, answers, y, penalty=penalty, free_rank=free) for one in SET_METHODS]
    for found in evaluate_sets(specs, answers, y, wanted, seed=0):
        assert abs(found.coverage - wanted) <= BAR, found
        assert 0.8 < found.size < 5
        assert found.calibration_rows + found.held_out_rows == len(y)


def test_adaptive_sets_are_larger_where_the_doubt_is(digits):
    answers, y = digits
    spec = fit_sets("aps", answers, y)
    sizes = (class_scores(answers, "aps") <= thresholds(spec, 0.95)).sum(axis=1)
    sure = answers.max(axis=1) > np.median(answers.max(axis=1))
    assert sizes[~sure].mean() > 1.5 * sizes[sure].mean()


def test_raps_cuts_the_long_tails_of_aps():
    random = np.random.default_rng(0)
    y = random.integers(0, 50, 2000)
    logits = 4 * np.eye(50)[y] + random.normal(0, 1.2, (2000, 50))
    answers = softmax(logits, axis=1).astype(np.float32)
    penalty, free = tune_raps(answers[:1000], y[:1000], 0.9)
    specs = [fit_sets(one, answers, y, penalty=penalty, free_rank=free) for one in SET_METHODS]
    lac, aps, raps = evaluate_sets(specs, answers[1000:], y[1000:], 0.9, seed=0)
    assert lac.size <= raps.size < 0.8 * aps.size


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.95])
def test_intervals_cover_the_diabetes_data(diabetes, wanted):
    x, y = diabetes
    ridge = BayesianRidge().fit(x[:150], y[:150])
    mean, deviation = ridge.predict(x[150:], return_std=True)
    low, high = (
        GradientBoostingRegressor(loss="quantile", alpha=level, n_estimators=30, random_state=0)
        .fit(x[:150], y[:150])
        .predict(x[150:])
        for level in (0.1, 0.9)
    )
    truth = y[150:, np.newaxis]
    point = np.stack([mean, mean], axis=-1)[:, np.newaxis]
    quantiles = np.sort(np.stack([low, high], axis=-1))[:, np.newaxis]
    for data in (
        IntervalData("absolute", truth, point),
        IntervalData("normalised", truth, point, deviation[:, np.newaxis]),
        IntervalData("cqr", truth, quantiles),
    ):
        found = evaluate_intervals(data, wanted, seed=0)
        assert abs(found.coverage - wanted) <= BAR, found
        assert 100 < found.size < 350


def made(rows, seed=0):
    """Two outputs whose noise depends on the row, by a model that knows the mean and how much."""
    random = np.random.default_rng(seed)
    mean = random.normal(0, 5, (rows, 2))
    scale = random.uniform(0.1, 3, (rows, 2))
    y = mean + scale * random.standard_t(4, (rows, 2)) * np.array([1, 10])
    return IntervalData("normalised", y, np.stack([mean, mean], axis=-1), scale)


def test_each_output_has_a_threshold_of_its_own_that_holds_on_new_rows():
    spec, new = fit_intervals(made(5000)), made(5000, seed=1)
    limit = thresholds(spec, 0.9)
    assert limit[1] == pytest.approx(10 * limit[0], rel=0.1)
    inside = np.abs(new.y - new.bounds[..., 0]) / new.scale <= limit
    np.testing.assert_allclose(inside.mean(axis=0), 0.9, atol=BAR)


def test_many_scores_are_thinned_upwards_by_little():
    data = made(20_000)
    spec = fit_intervals(data)
    assert len(spec.ranks) == 1000
    assert spec.ranks[0] == 1
    assert spec.ranks[-1] == 20_000
    exact = np.sort(np.abs(data.y - data.bounds[..., 0]) / data.scale, axis=0)
    for coverage in (0.5, 0.9, 0.99, 0.9999):
        rank = int(np.ceil(20_001 * coverage)) - 1
        assert (thresholds(spec, coverage) >= exact[rank]).all()
        assert (thresholds(spec, coverage) <= exact[min(rank + 21, 19_999)]).all()


def test_a_spec_says_how_it_was_fitted():
    spec = fit_sets("raps", np.eye(3, dtype=np.float32), np.arange(3), penalty=0.1, free_rank=2)
    assert isinstance(spec, ConformalSpec)
    assert (spec.method, spec.rows, spec.penalty, spec.free_rank) == ("raps", 3, 0.1, 2)
    assert spec.gives_sets


def test_too_few_rows_cannot_be_evaluated():
    with pytest.raises(TooFewRows, match="needs 19 calibration rows, there were 15"):
        evaluate_intervals(made(30), 0.95, seed=0)
