"""Which models are kept: good ones first, then those that differ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.growth.keeping import Grown, KeepOptions, choose, disagreement


def grown(number, quality, classes=None, nbytes=1):
    return Grown(number, quality, nbytes, None if classes is None else np.array(classes, np.int32))


def test_what_is_worse_than_the_margin_is_not_kept():
    models = [grown(0, 0.90), grown(1, 0.95), grown(2, 0.93)]
    choice = choose(models, KeepOptions(margin=0.02, most=9))
    assert choice.kept == (1, 2)
    assert choice.dropped == {0: "margin"}


def test_a_lower_metric_is_better_if_it_is_minimized():
    models = [grown(0, 0.5), grown(1, 0.2), grown(2, 0.21)]
    assert choose(models, KeepOptions(0.05, 9, minimize=True)).kept == (1, 2)


def test_without_predictions_the_best_are_kept():
    models = [grown(number, 0.9 + number / 1000) for number in range(5)]
    assert choose(models, KeepOptions(1.0, 2)).kept == (4, 3)


def test_the_best_is_kept_and_then_what_differs_most():
    models = [
        grown(0, 0.95, [0, 0, 0, 0, 0]),
        grown(1, 0.94, [0, 0, 0, 0, 1]),
        grown(2, 0.93, [1, 1, 1, 0, 0]),
    ]
    choice = choose(models, KeepOptions(0.1, 2))
    assert choice.kept == (0, 2)
    assert choice.dropped == {1: "number"}


def test_of_models_that_agree_on_every_row_the_better_is_kept():
    models = [grown(0, 0.9, [1, 2]), grown(1, 0.91, [1, 2])]
    choice = choose(models, KeepOptions(0.1, 9))
    assert choice.kept == (1,)
    assert choice.dropped == {0: "the same answers"}


def test_a_model_that_does_not_fit_the_disk_makes_place_for_a_smaller_one():
    models = [grown(0, 0.9, nbytes=6), grown(1, 0.89, nbytes=6), grown(2, 0.88, nbytes=3)]
    choice = choose(models, KeepOptions(0.1, 9, max_bytes=10))
    assert choice.kept == (0, 2)
    assert choice.dropped == {1: "disk"}


def test_nothing_is_kept_of_nothing():
    assert choose([], KeepOptions(0.1, 1)).kept == ()


def test_classes_disagree_by_rows_and_numbers_by_their_distance():
    assert disagreement(grown(0, 0, [1, 2, 3, 4]), grown(1, 0, [1, 2, 3, 0])) == 0.25
    numbers = [Grown(i, 0, 1, np.array([[0.0], [i * 2.0]], np.float32)) for i in range(2)]
    assert disagreement(*numbers) == pytest.approx(np.sqrt(2))


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.lists(st.integers(0, 2), min_size=4, max_size=4)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 6),
)
def test_the_least_disagreement_of_those_kept_is_at_least_half_of_any_other_choice(found, most):
    models = [grown(i, quality / 100, classes) for i, (quality, classes) in enumerate(found)]
    kept = choose(models, KeepOptions(1.0, most)).kept
    assert len(kept) <= most
    distances = [
        disagreement(models[a], models[b]) for i, a in enumerate(kept) for b in kept[i + 1 :]
    ]
    assert all(distance > 0 for distance in distances)
    left = [one for one in models if one.number not in kept]
    if len(kept) == most and distances:
        for one in left:  # taking it in could not have been better: it is near to one of them
            assert min(disagreement(one, models[a]) for a in kept) <= min(distances)
