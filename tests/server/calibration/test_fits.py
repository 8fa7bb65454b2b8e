"""Temperatures, weights and the greedy selection against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special

from server.calibration.metrics import log_loss
from server.calibration.temperature_scaling import (
    HIGHEST,
    LOWEST,
    fit_temperature,
    log_probabilities,
)
from server.calibration.weights import fit_weights, select_members
from workers.worker import postprocess

seeds = st.integers(0, 10_000)


def case(seed, rows=150, classes=4, spread=2.0):
    """Logits, and classes drawn by their probabilities."""
    random = np.random.default_rng(seed)
    z = random.normal(0, spread, (rows, classes))
    y = np.array([random.choice(classes, p=one) for one in special.softmax(z, axis=1)])
    return z, y


@given(seeds, st.floats(0.2, 5))
def test_the_temperature_is_that_of_a_general_optimiser(seed, truth):
    z, y = case(seed)
    z = z * truth  # as sharp as a member is whose temperature should be `truth`
    found = fit_temperature(z, y)

    def loss(log_temperature):
        return log_loss(special.softmax(z / np.exp(log_temperature), axis=1), y)

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    best = optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
    assert loss(np.log(found)) <= best.fun + 1e-9
    assert found == pytest.approx(np.exp(best.x), rel=1e-2)


@given(seeds)
def test_probabilities_have_the_temperature_of_their_logits(seed):
    z, y = case(seed)
    logs = log_probabilities(special.softmax(z, axis=1), of_logits=True)
    assert fit_temperature(logs, y) == pytest.approx(fit_temperature(z, y), rel=1e-6)


@given(seeds, st.floats(0.3, 3), st.floats(0.3, 3))
def test_a_new_temperature_multiplies_the_old_one(seed, old, factor):
    z, _ = case(seed, rows=5)
    served = postprocess.probabilities(z, temperature=old)
    again = postprocess.probabilities(log_probabilities(served, of_logits=True), factor)
    wanted = postprocess.probabilities(z, temperature=old * factor)
    np.testing.assert_allclose(again, wanted, rtol=1e-9)
    np.testing.assert_allclose(again, postprocess.tempered(served, factor), rtol=1e-9)


def test_temperatures_are_bounded():
    z = np.array([[3.0, 0.0], [0.0, 2.0], [5.0, 1.0]])
    assert fit_temperature(z, np.array([1, 0, 1])) == HIGHEST
    tiny = np.array([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    assert fit_temperature(tiny * 1e-4, np.zeros(10, int)) == LOWEST
    assert fit_temperature(tiny, np.zeros(10, int)) == pytest.approx(1 / np.log(9))


def test_no_doubt_at_all_is_not_a_temperature():
    z = np.random.default_rng(0).normal(0, 3, (50, 4))
    assert fit_temperature(z, z.argmax(axis=1)) == 1


def test_impossible_classes_say_nothing_about_the_temperature():
    z, y = case(1)
    p = np.pad(special.softmax(z, axis=1), ((0, 0), (0, 1)))
    p, y = np.concatenate([p, p[:9]]), np.concatenate([y, np.full(9, 4)])
    logs = log_probabilities(p, of_logits=True)
    assert np.isneginf(logs[:, 4]).all()
    assert fit_temperature(logs, y) == pytest.approx(fit_temperature(z, y[:-9]), rel=1e-6)
    assert (postprocess.probabilities(logs, 2.0)[:, 4] == 0).all()
    assert fit_temperature(logs, np.full(len(y), 4)) == 1


def test_a_probability_too_small_for_fp32_is_not_impossible_for_logits():
    z = np.array([[0.0, 200.0], [1.0, 0.0]], np.float32)
    p = special.softmax(z, axis=1).astype(np.float32)
    assert p[0, 0] == 0
    assert np.isfinite(log_probabilities(p.astype(float), of_logits=True)).all()
    assert np.isneginf(log_probabilities(p.astype(float), of_logits=False)[0, 0])


def truths(seed, members, rows=60):
    return np.random.default_rng(seed).beta(2, 1, (members, rows))


def loss_of(weights, truth):
    return float(-np.log(weights @ truth).mean())


@given(seeds, st.integers(1, 5))
def test_weights_are_those_of_a_general_optimiser(seed, members):
    truth = truths(seed, members)
    found = fit_weights(truth)
    assert (found > 0).all()
    assert found.sum() == pytest.approx(1)
    best = optimize.minimize(
        lambda w: loss_of(w, truth),
        np.full(members, 1 / members),
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
    )
    assert loss_of(found, truth) <= best.fun + 2e-6


@given(seeds)
def test_weights_against_a_grid(seed):
    truth = truths(seed, 3)
    steps = np.arange(21) / 20
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9]
    least = min(loss_of(np.abs(one), truth) for one in grid)
    assert loss_of(fit_weights(truth), truth) <= least + 1e-6


def test_a_member_that_is_wrong_for_sure_spoils_nothing():
    truth = np.array([[0.9, 0.8, 0.7], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(fit_weights(truth), [1, 0], atol=1e-3)
    assert np.isfinite(fit_weights(np.zeros((2, 3)))).all()


def greedy(truth, rounds):
    """Caruana's selection as his paper tells it, step by step."""
    members = len(truth)

    def loss(chosen):
        return float(-np.log(np.mean([truth[m] for m in chosen], axis=0)).mean())

    order = sorted(range(members), key=lambda m: loss([m]))
    starts = [order[:n] for n in range(1, members + 1)]
    chosen = list(min(starts, key=loss))
    steps = [list(chosen)]
    while len(chosen) < rounds:
        chosen = min(([*chosen, m] for m in range(members)), key=loss)
        steps.append(chosen)
    best = min(steps, key=loss)
    return [best.count(m) for m in range(members)]


@given(seeds, st.integers(1, 5))
def test_the_selection_is_that_of_the_paper(seed, members):
    truth = truths(seed, members)
    found, expected = select_members(truth, rounds=12), np.array(greedy(truth, 12))
    # Twice the counts are the same mean, but for rounding.
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum())


@given(seeds)
def test_the_selection_is_near_the_best_of_its_size(seed):
    truth = truths(seed, 3, rows=20)
    sizes = range(1, 7)
    every = [c for n in sizes for c in itertools.combinations_with_replacement(range(3), n)]
    least = min(-np.log(truth[list(c)].mean(axis=0)).mean() for c in every)
    counts = select_members(truth, rounds=6)
    assert loss_of(counts / counts.sum(), truth) <= least + 0.02
    assert 1 <= counts.sum() <= 6


def test_bags_take_a_share_of_the_members_and_are_seeded():
    truth = truths(3, 6)
    first, again, other = (select_members(truth, bags=8, seed=seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    one = select_members(truth, bags=1, seed=0)
    assert (one > 0).sum() <= 3
