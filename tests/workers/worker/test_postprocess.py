"""What outputs mean, beside an independent computation in FP64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from workers.runtime.spec import OutputSpec
from workers.worker.postprocess import (
    mean_and_variance,
    one_hot,
    postprocessor,
    probabilities,
    tempered,
)

LOGITS = st.lists(
    st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), min_size=1, max_size=4
)
TEMPERATURES = st.floats(0.05, 50)


def test_logits_become_probabilities():
    logits = np.array([[1000, 1001, 999], [-5, 0, 5], [0, 0, 0]], np.float32)
    shares = probabilities(logits)
    np.testing.assert_allclose(shares, special.softmax(logits.astype(float), 1), rtol=1e-6)
    assert shares.dtype == np.float32
    assert logits[0, 0] == 1000, "the model's own array is not touched"


@given(LOGITS, TEMPERATURES, st.sampled_from([np.float16, np.float32, np.float64]))
def test_logits_are_divided_by_the_temperature(rows, temperature, dtype):
    logits = np.array(rows, dtype)
    shares = probabilities(logits, temperature)
    wanted = special.softmax(logits.astype(float) / temperature, axis=1)
    tolerance = 1e-12 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(shares, wanted, rtol=tolerance, atol=1e-30)
    assert shares.dtype == (np.float64 if dtype == np.float64 else np.float32)


@given(LOGITS, TEMPERATURES)
def test_probabilities_of_a_temperature_are_those_of_their_logits(rows, temperature):
    given_shares = special.softmax(np.array(rows), axis=1)
    before = given_shares.copy()
    wanted = special.softmax(np.log(given_shares) / temperature, axis=1)
    np.testing.assert_allclose(tempered(given_shares, temperature), wanted, rtol=1e-9, atol=1e-300)
    np.testing.assert_array_equal(given_shares, before)


@pytest.mark.parametrize("temperature", [1e-6, 1.0, 1e6])
def test_extreme_temperatures_choose_the_best_or_none(temperature):
    logits = np.array([[1, 3, 2], [-np.inf, 5, 4]], np.float32)
    shares = probabilities(logits, temperature)
    assert np.isfinite(shares).all()
    assert shares[1, 0] == 0, "a class that is masked out stays so"
    if temperature < 1:
        assert shares.tolist() == [[0, 1, 0], [0, 1, 0]]
    if temperature > 1:
        np.testing.assert_allclose(shares, [[1 / 3] * 3, [0, 0.5, 0.5]], rtol=1e-4)
    given_shares = np.array([[0.2, 0.5, 0.3]], np.float32)
    sharpened = tempered(given_shares, temperature)
    np.testing.assert_allclose(sharpened.sum(axis=1), 1, rtol=1e-6)
    assert sharpened.argmax() == 1


def test_half_precision_and_whole_logits_are_widened():
    for dtype in (np.float16, np.int64):
        shares = probabilities(np.array([[0, 10]], dtype))
        assert shares.sum() == pytest.approx(1.0)
        assert shares.dtype.kind == "f"
        assert shares.dtype.itemsize >= 4


def test_logits_of_every_pixel():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    wanted = special.softmax(logits.astype(float) / 2, axis=-1)
    np.testing.assert_allclose(probabilities(logits, 2.0), wanted, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.int8])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_the_index_of_a_class_becomes_a_certain_prediction(dtype, shape):
    rows = one_hot(np.array([2, 0, 1], dtype).reshape(shape), 3)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_an_index_of_no_class_is_nan_in_its_row_alone():
    rows = one_hot(np.array([1, 3, -1, 0]), 3)
    assert np.isnan(rows).tolist() == [[False] * 3, [True] * 3, [True] * 3, [False] * 3]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_the_spread_of_a_normal_distribution_may_be(dtype):
    raw = np.array([[[1, 0.5], [2, 0]], [[-1, 2], [0, 1]]], dtype)
    before = raw.copy()
    for spread, variance in {
        "variance": raw[..., 1],
        "std": raw[..., 1].astype(float) ** 2,
        "log_variance": np.exp(raw[..., 1].astype(float)),
    }.items():
        found = postprocessor(OutputSpec(0, "normal", spread=spread))(raw)
        np.testing.assert_array_equal(found[..., 0], raw[..., 0])
        np.testing.assert_allclose(found[..., 1], variance, rtol=1e-6)
        assert found.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_array_equal(raw, before)


def test_a_negative_spread_fails_its_row_alone():
    raw = np.array([[1, -0.5], [1, 0.5]], np.float32)
    for spread in ("variance", "std"):
        assert np.isnan(mean_and_variance(raw, spread)).any(axis=1).tolist() == [True, False]
    assert np.isfinite(mean_and_variance(raw, "log_variance")).all()


def test_quantiles_that_cross_are_sorted():
    raw = np.array([[3, 1, 2], [1, 2, 3]], np.float16)
    found = postprocessor(OutputSpec(0, "quantiles"))(raw)
    assert found.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert found.dtype == np.float32
