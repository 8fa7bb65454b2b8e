"""Measures of quality, built-in and the user's."""

import numpy as np
import pytest

from server.calibration import metrics
from server.errors import ConfigError
from server.selection.quality import MEASURES, find_measure

RANDOM = np.random.default_rng(0)
P, Y = RANDOM.dirichlet(np.ones(4), (3, 50)), RANDOM.integers(0, 4, 50)


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "brier"])
def test_measures_of_classes_are_those_of_calibration(name):
    measure, expected = MEASURES[name], getattr(metrics, name)
    assert measure(P[0], Y) == pytest.approx(expected(P[0], Y))
    assert measure.of_many(P, Y).tolist() == pytest.approx([expected(p, Y) for p in P])
    resamples = RANDOM.integers(50, size=(7, 50))
    found = measure.resampled(P, Y, resamples)
    assert found == pytest.approx(np.array([[expected(p[r], Y[r]) for r in resamples] for p in P]))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_rmse_is_over_all_numbers(shape):
    answers, y = RANDOM.normal(size=(3, 50, *shape)), RANDOM.normal(size=(50, *shape))
    measure = MEASURES["rmse"]
    expected = [np.sqrt(((one - y) ** 2).mean()) for one in answers]
    assert measure.of_many(answers, y).tolist() == pytest.approx(expected)
    resamples = RANDOM.integers(50, size=(2, 50))
    assert measure.resampled(answers, y, resamples)[1, 1] == pytest.approx(
        measure(answers[1][resamples[1]], y[resamples[1]])
    )


def test_ties_of_accuracy_are_told_apart_but_never_turned_over():
    sure, unsure = np.eye(4)[Y], 0.9 * np.eye(4)[Y] + 0.025
    wrong = np.eye(4)[Y].copy()
    wrong[0] = np.roll(wrong[0], 1)
    gains = MEASURES["accuracy"].gains(np.stack([sure, unsure, wrong]), Y)
    assert gains[0] > gains[1] > gains[2] + 0.5 / 50


MODULE = """
def spread(answers, y):
    return float(answers.max() - answers.min()) if len(y) else 0.0

spread.higher_is_better = False

def none(answers, y):
    return None

def infinite(answers, y):
    return float("inf")

number = 3
"""


def test_a_measure_may_be_the_users(tmp_path):
    (tmp_path / "own_measures.py").write_text(MODULE)
    measure = find_measure("own_measures:spread", str(tmp_path))
    assert (measure.higher_is_better, measure.of_classes) == (False, None)
    assert measure(P[0], Y) == pytest.approx(P[0].max() - P[0].min())
    assert measure.resampled(P, Y, np.zeros((2, 50), np.int64)).shape == (3, 2)
    with pytest.raises(ConfigError, match="own_measures:none: it fails: TypeError"):
        find_measure("own_measures:none", str(tmp_path))(P[0], Y)
    with pytest.raises(ConfigError, match="returned inf, not a finite number"):
        find_measure("own_measures:infinite", str(tmp_path))(P[0], Y)
    with pytest.raises(ConfigError, match="is not a function"):
        find_measure("own_measures:number", str(tmp_path))
    assert find_measure("accuracy") is MEASURES["accuracy"]
    with pytest.raises(ConfigError, match="did you mean 'log_loss'"):
        find_measure("logloss")
