"""Thresholds of cascades against brute force, and the safety margin."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from server.calibration.cascade_thresholds import (
    StageAnswers,
    allowed_losses,
    choose_thresholds,
    run_cascade,
)


def stages_of(seed, rows, sizes=(1, 1, 2), classes=3, noise=1.5):
    """Members that see the truth through noise, and their running mean."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, rows)
    members = 2.5 * np.eye(classes)[y] + random.normal(0, noise, (sum(sizes), rows, classes))
    p = special.softmax(members, axis=2)
    asked = np.cumsum(sizes)
    answers = np.stack([p[:count].mean(axis=0) for count in asked]).astype(np.float32)
    return StageAnswers(tuple(sizes), answers, y)


def lost(stages, thresholds):
    answers = run_cascade(stages, thresholds).answers
    return int(((answers.argmax(axis=1) != stages.y) & stages.right[-1]).sum())


@given(st.integers(0, 10_000), st.integers(1, 14), st.sampled_from([0.3, 0.5, 0.8]))
def test_thresholds_save_as_much_as_any(seed, rows, max_loss):
    stages = stages_of(seed, rows)
    allowed, doubt = allowed_losses(rows, max_loss, 2)
    found = choose_thresholds(stages, max_loss)
    every = [sorted({*map(float, one), 1.0}) for one in stages.confidence[:-1]]
    saved = [
        run_cascade(stages, chosen).saved
        for chosen in itertools.product(*every)
        if lost(stages, chosen) <= allowed
    ]
    assert lost(stages, found) <= allowed
    if doubt == 1:
        assert run_cascade(stages, found).saved == pytest.approx(max(saved))
    else:
        assert run_cascade(stages, found).saved <= max(saved) + 1e-9


def test_rows_leave_at_the_first_stage_that_is_sure():
    answers = np.array(
        [[[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]], [[0.5, 0.5], [0.2, 0.8], [0.3, 0.7]]], np.float32
    )
    stages = StageAnswers((1, 3), answers, np.array([0, 1, 1]))
    outcome = run_cascade(stages, [0.6])
    assert outcome.stage.tolist() == [0, 0, 1], "a threshold is reached, too, by being equal"
    np.testing.assert_array_equal(outcome.answers, answers[[0, 0, 1], [0, 1, 2]])
    assert outcome.member_rows_per_row == pytest.approx((1 + 1 + 4) / 3)
    assert outcome.saved == pytest.approx(6 / 12)


@given(st.integers(0, 100_000), st.floats(0, 1), st.integers(1, 10))
def test_the_safety_margin(rows, max_loss, thresholds):
    b, doubt = allowed_losses(rows, max_loss, thresholds)
    limit = max_loss * (rows + 1)
    if doubt < 1:
        assert b == 0
        assert doubt == pytest.approx(limit / thresholds)
    else:
        assert b + b**0.5 + thresholds <= limit + 1e-6
        assert b + 1 + (b + 1) ** 0.5 + thresholds > limit - 1e-6


def test_few_rows_raise_the_thresholds():
    stages = stages_of(1, 200)
    careful, bold = (choose_thresholds(stages, loss) for loss in (0.001, 0.2))
    assert careful[0] > bold[0]
    assert lost(stages, careful) == 0
    assert run_cascade(stages, careful).saved < run_cascade(stages, bold).saved


def test_the_loss_on_new_rows_is_what_was_asked_for():
    losses, saved = [], []
    for seed in range(20):
        stages = stages_of(seed, 4000, noise=0.9)
        fitting, held = (
            StageAnswers(stages.sizes, stages.answers[:, half], stages.y[half])
            for half in (slice(2000), slice(2000, None))
        )
        thresholds = choose_thresholds(fitting, 0.01)
        outcome = run_cascade(held, thresholds)
        losses.append(held.right[-1].mean() - (outcome.answers.argmax(axis=1) == held.y).mean())
        saved.append(outcome.saved)
    assert np.mean(losses) <= 0.01
    assert min(saved) > 0.2


def test_stages_that_are_utterly_sure_of_wrong_classes():
    answers = np.zeros((2, 50, 2), np.float32)
    answers[0, :10, 1] = answers[0, 10:, 0] = answers[1, :, 0] = 1
    stages = StageAnswers((1, 1), answers, np.zeros(50, np.int64))
    assert choose_thresholds(stages, 0.1) is None
    (threshold,) = choose_thresholds(stages, 0.5)
    assert threshold <= 1
    assert lost(stages, [threshold]) == 10
