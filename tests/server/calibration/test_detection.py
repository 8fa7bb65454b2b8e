"""Scores of uncertainty as detectors of rows from elsewhere."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from server.calibration.evaluation import evaluate_detection


def members(seed, rows, scale):
    return special.softmax(np.random.default_rng(seed).normal(0, scale, (3, rows, 4)), axis=2)


def test_every_score_as_computed_elsewhere():
    inside, outside = members(0, 40, 3.0), members(1, 30, 1.5)
    found = evaluate_detection(inside, outside)

    def scores(p):
        mean = p.mean(axis=0)
        total, expected = stats.entropy(mean, axis=1), stats.entropy(p, axis=2).mean(axis=0)
        votes = [np.bincount(row, minlength=4) for row in p.argmax(axis=2).T]
        return {
            "entropy": total,
            "expected_entropy": expected,
            "mutual_information": total - expected,
            "variance": p.var(axis=0).mean(axis=1),
            "disagreement": [1 - (v * (v - 1)).sum() / 6 for v in votes],
            "1 - vote_share": [1 - v.max() / 3 for v in votes],
            "1 - max probability": 1 - mean.max(axis=1),
        }

    truth = [0] * 40 + [1] * 30
    within, without = scores(inside), scores(outside)
    assert set(found) == set(within)
    for name, value in found.items():
        both = np.round(np.concatenate([within[name], without[name]]), 9)
        assert value == pytest.approx(roc_auc_score(truth, both), abs=2e-3), name
