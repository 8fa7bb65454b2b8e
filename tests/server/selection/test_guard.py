"""Splits, cross-fitted ratings, and intervals that hold the truth as often as they say."""

import numpy as np
import pytest

from server.errors import ConfigError
from server.selection.baselines import weighted
from server.selection.guard import CrossFit, judge, near_best, split
from server.selection.labelled import LabelledRows
from server.selection.points import Candidate
from server.selection.quality import MEASURES
from tests.support.libraries import library

ALONE = Candidate(("m0",), (1.0,))


def labelled(members, rows, *, seed=0, measure="accuracy"):
    predictions, y, problem = library(members, rows, seed=seed)
    return LabelledRows(problem.members, predictions, y, MEASURES[measure])


def test_a_split_leaves_nothing_out():
    random = np.random.default_rng(0)
    for y, of_classes in ((random.integers(0, 3, 200), True), (random.normal(size=200), False)):
        searched, judged = split(y, of_classes, 0.3, 1)
        assert sorted([*searched, *judged]) == list(range(200))
        assert len(judged) == pytest.approx(60, abs=2)
        assert split(y, of_classes, 0.3, 1)[1].tolist() == judged.tolist()
        with pytest.raises(ConfigError, match="at least 20"):
            split(y, of_classes, 0.01, 1)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = labelled(1, 60_000).measure(labelled(1, 60_000).predictions[0], labelled(1, 60_000).y)
    held = 0
    for seed in range(60):
        (low, high) = judge(labelled(1, 150, seed=100 + seed), [ALONE], seed)[1][0]
        held += low <= truth <= high
    assert 0.85 <= held / 60 <= 1


def test_each_half_is_answered_by_what_the_other_half_gave():
    rows = labelled(2, 40)
    given = iter([np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.array([0.0, 1.0])])
    fitting = []

    def fit(part):
        fitting.append(part.y)
        return weighted(part, next(given))

    cross_fit = CrossFit(rows, 0)
    rated = cross_fit.rate(fit)
    assert rated.candidate.weights == (0.5, 0.5)
    answers = cross_fit.answers(rated.halves)
    from_second = (answers == rows.predictions[1]).all(axis=1)
    assert (answers[~from_second] == rows.predictions[0][~from_second]).all()
    assert rows.y[~from_second].tolist() == fitting[2].tolist()
    assert rows.y[from_second].tolist() == fitting[1].tolist()
    assert rated.gain == -rows.losses(answers[np.newaxis])[0]
    assert cross_fit.rate(lambda part: None) is None


def test_a_fit_to_noise_is_not_taken_for_quality():
    rows = labelled(1, 200)
    noise = LabelledRows(
        tuple(f"m{i}" for i in range(200)),
        np.random.default_rng(0).dirichlet(np.ones(3), (200, 200)),
        rows.y,
        rows.measure,
    )
    best = CrossFit(noise, 0).rate(
        lambda part: weighted(part, np.eye(200)[part.gains(np.eye(200)).argmax()])
    )
    assert noise.measure(noise.answers(best.candidate), noise.y) > 0.4
    assert best.gain < 0.4


def test_what_is_within_the_noise_is_near_the_best():
    rows = labelled(1, 400)
    right = np.eye(3)[rows.y]
    off_by = [right.copy() for _ in range(3)]
    for answers, wrong in zip(off_by, (20, 21, 60), strict=True):
        answers[:wrong] = np.eye(3)[(rows.y[:wrong] + 1) % 3]
    assert near_best(rows, off_by, 0).tolist() == [True, False, False]
    off_by[1][:21] = off_by[0][:21]
    off_by[1][100:121] = np.eye(3)[(rows.y[100:121] + 1) % 3]
    off_by[1][:20] = right[:20]
    assert near_best(rows, off_by, 0).tolist() == [True, True, False]
