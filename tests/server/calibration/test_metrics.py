"""Metrics against independent computations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as reference

from server.calibration.metrics import (
    BINS,
    accuracy,
    auroc,
    brier,
    calibration_error,
    log_loss,
    measure,
    reliability,
)


def case(seed, rows=200, classes=5, sharpness=2.0):
    random = np.random.default_rng(seed)
    p = special.softmax(random.normal(0, sharpness, (rows, classes)), axis=1)
    y = np.array([random.choice(classes, p=one) for one in p])
    return p, y


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed):
    p, y = case(seed)
    classes = range(p.shape[1])
    assert log_loss(p, y) == pytest.approx(reference.log_loss(y, p, labels=classes))
    assert accuracy(p, y) == reference.accuracy_score(y, p.argmax(axis=1))
    each = sum(reference.brier_score_loss(y == c, p[:, c], pos_label=True) for c in classes)
    assert brier(p, y) == pytest.approx(each)
    found = measure(p, y)
    assert (found.accuracy, found.log_loss) == (accuracy(p, y), log_loss(p, y))
    assert (found.brier, found.calibration_error) == (
        brier(p, y),
        calibration_error(reliability(p, y)),
    )


def test_an_impossible_class_costs_a_finite_log_loss():
    p, y = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0])
    assert log_loss(p, y) == pytest.approx((-np.log(1e-15) + np.log(2)) / 2)


def test_brier_goes_from_nothing_to_two():
    p = np.eye(3)
    assert brier(p, np.arange(3)) == 0
    assert brier(p, np.array([1, 2, 0])) == 2


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_bin_by_bin(seed):
    p, y = case(seed, rows=100, classes=3)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    total, rows = 0.0, 0
    for number, found in enumerate(reliability(p, y)):
        inside = (confidence > number / BINS) & (confidence <= (number + 1) / BINS)
        assert found.rows == inside.sum()
        rows += found.rows
        if inside.any():
            assert found.accuracy == pytest.approx(right[inside].mean())
            assert found.confidence == pytest.approx(confidence[inside].mean())
            gap = abs(right[inside].mean() - confidence[inside].mean())
            total += inside.sum() / len(y) * gap
    assert rows == len(y)
    assert calibration_error(reliability(p, y)) == pytest.approx(total)


def test_certainty_is_in_the_last_bin_although_it_is_rounded():
    p = np.array([[1.0, 0.0], [np.nextafter(1.0, 2), 0.0]])
    assert [one.rows for one in reliability(p, np.array([0, 1]))] == [0] * (BINS - 1) + [2]
    assert calibration_error(reliability(p, np.array([0, 1]))) == pytest.approx(0.5)


scores = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20)


@given(scores, scores)
def test_auroc_counts_pairs_and_half_of_the_ties(inside, outside):
    pairs = [(b > a) + 0.5 * (b == a) for a in inside for b in outside]
    found = auroc(np.array(inside), np.array(outside))
    assert found == pytest.approx(np.mean(pairs))
    truth = [0] * len(inside) + [1] * len(outside)
    assert found == pytest.approx(reference.roc_auc_score(truth, inside + outside))
