"""Rules over maps [n, classes, height, width]: equal to NumPy, pixel by pixel."""

import numpy as np
import pytest
from scipy import stats

from workers.rules import load_rule
from workers.runtime.spec import RuleSpec, TensorSpec

MEMBERS, ROWS, CLASSES, HEIGHT, WIDTH = 5, 2, 3, 4, 6
WEIGHTS = (2.0, 1.0, 1.0, 0.5, 3.0)
SHAPE = (CLASSES, HEIGHT, WIDTH)


def maps(seed=0):
    logits = np.random.default_rng(seed).normal(size=(MEMBERS, ROWS, *SHAPE)).astype(np.float32)
    shares = np.exp(logits)
    return shares / shares.sum(axis=2, keepdims=True)


def applied(rule, predictions, weights=(), **options):
    spec = RuleSpec(rule, (0,), (TensorSpec("output", "FP32", SHAPE),), weights, options)
    names = [f"m{i}" for i in range(MEMBERS)]
    out = np.full((ROWS, *SHAPE), np.nan, np.float32)
    load_rule(spec, names, class_axis=-3).for_members(range(MEMBERS))([predictions], [out])
    return out


def votes(predictions, weights):
    winners = predictions.argmax(axis=2)[:, :, np.newaxis]
    is_winner = winners == np.arange(CLASSES).reshape(1, 1, CLASSES, 1, 1)
    return np.average(is_winner, axis=0, weights=weights)


def geometric(predictions):
    product = np.prod(predictions.astype(np.float64), axis=0) ** (1 / MEMBERS)
    return product / product.sum(axis=1, keepdims=True)


REFERENCES = {
    "mean": lambda p: p.mean(axis=0),
    "weighted_mean": lambda p: np.average(p, axis=0, weights=WEIGHTS),
    "median": lambda p: np.median(p, axis=0),
    "trimmed_mean": lambda p: stats.trim_mean(p, 0.2, axis=0),
    "max": lambda p: p.max(axis=0),
    "min": lambda p: p.min(axis=0),
    "geometric_mean": geometric,
    "vote": lambda p: votes(p, np.ones(MEMBERS)),
    "weighted_vote": lambda p: votes(p, WEIGHTS),
    "rank_average": lambda p: ((stats.rankdata(p, axis=2) - 1) / (CLASSES - 1)).mean(axis=0),
}


@pytest.mark.parametrize("rule", REFERENCES)
def test_maps_are_combined_pixel_by_pixel(rule):
    predictions = maps()
    weights = WEIGHTS if rule.startswith("weighted") else ()
    wanted = REFERENCES[rule](predictions)
    np.testing.assert_allclose(applied(rule, predictions, weights), wanted, rtol=1e-5)


def test_the_medoid_is_a_whole_map_of_one_member():
    predictions = maps()
    flat = predictions.reshape(MEMBERS, ROWS, -1).astype(np.float64)
    nearest = np.linalg.norm(flat - flat.mean(axis=0), axis=-1).argmin(axis=0)
    wanted = predictions[nearest, np.arange(ROWS)]
    np.testing.assert_array_equal(applied("medoid", predictions), wanted)
