"""Mixtures of normal distributions and quantiles, against NumPy and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workers.rules.distributions import (
    interpolated_quantiles,
    mixture,
    mixture_moments,
    mixture_quantiles,
    normal_cdf,
)

MEMBERS, ROWS = 4, 7
WEIGHTS = np.array([1.0, 2.0, 0.5, 1.5])
EQUAL = np.ones(MEMBERS)


def members(shape=(), dtype=np.float64, seed=0):
    random = np.random.default_rng(seed)
    means = random.normal(5, 3, (MEMBERS, ROWS, *shape))
    variances = random.gamma(2, 1, means.shape)
    return means.astype(dtype), variances.astype(dtype)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("weights", [EQUAL, WEIGHTS])
def test_moments_are_those_of_samples_of_the_mixture_by_the_law_of_total_variance(shape, weights):
    means, variances = members(shape)
    shares = weights / weights.sum()
    moments = mixture_moments(means, variances, weights)
    expected = np.tensordot(shares, means, 1)
    second = np.tensordot(shares, variances + means**2, 1)
    np.testing.assert_allclose(moments.mean, expected, rtol=1e-13)
    np.testing.assert_allclose(moments.aleatoric, np.tensordot(shares, variances, 1), rtol=1e-13)
    total = moments.aleatoric + moments.epistemic
    np.testing.assert_allclose(total, second - expected**2, rtol=1e-10)


def test_plain_values_have_no_aleatoric_part():
    means, _ = members()
    moments = mixture_moments(means, None, EQUAL)
    assert (moments.aleatoric == 0).all()
    np.testing.assert_allclose(moments.epistemic, means.var(axis=0), rtol=1e-13)


def test_a_small_spread_around_a_large_mean_is_not_lost():
    means = np.array([[1e8], [1e8 + 1]])
    assert mixture_moments(means, np.zeros((2, 1)), np.ones(2)).epistemic == [0.25]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_rule_writes_the_weighted_mean_of_the_means(dtype, shape):
    means, variances = members(shape, dtype)
    out = np.empty((ROWS, *shape), dtype)
    mixture(np.stack([means, variances], axis=-1), WEIGHTS, out)
    np.testing.assert_allclose(out, np.average(means, axis=0, weights=WEIGHTS), rtol=1e-6)
    plain = np.empty_like(out)
    mixture(means, WEIGHTS, plain)
    np.testing.assert_array_equal(plain, out)


def test_the_distribution_function_is_exact():
    z = np.concatenate([np.linspace(-40, 40, 4001), [0.0, -0.0, np.inf, -np.inf]])
    np.testing.assert_allclose(normal_cdf(z), stats.norm.cdf(z), rtol=0, atol=3e-16)


LEVELS = (0.001, 0.05, 0.25, 0.5, 0.9, 0.9999)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_quantiles_are_the_roots_of_the_mixtures_distribution_function(shape):
    means, variances = members(shape)
    found = mixture_quantiles(means, variances, WEIGHTS, LEVELS)
    assert found.shape == (ROWS, *shape, len(LEVELS))
    below = stats.norm.cdf(found, means[..., None], np.sqrt(variances)[..., None])
    share = np.tensordot(WEIGHTS / WEIGHTS.sum(), below, 1)
    np.testing.assert_allclose(share, np.broadcast_to(LEVELS, share.shape), rtol=0, atol=1e-11)


def test_one_member_has_the_quantiles_of_its_normal_distribution():
    means, variances = members()
    found = mixture_quantiles(means[:1], variances[:1], np.ones(1), LEVELS)
    expected = stats.norm.ppf(LEVELS, means[0][:, None], np.sqrt(variances[0])[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_members_without_doubt_have_their_means_as_quantiles():
    means = np.array([[1.0], [3.0]])
    low, high = mixture_quantiles(means, np.zeros((2, 1)), np.array([3.0, 1.0]), (0.2, 0.9))[0]
    assert (low, high) == (pytest.approx(1), pytest.approx(3))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(1e-3, 1e3)),
        min_size=1,
        max_size=5,
    )
)
def test_quantiles_ascend_with_their_level_and_lie_between_the_members(drawn):
    columns = np.array(drawn).T
    means, variances, weights = columns[0][:, None], columns[1][:, None], columns[2]
    found = mixture_quantiles(means, variances, weights, LEVELS)[0]
    assert np.isfinite(found).all()
    own = stats.norm.ppf(LEVELS, means, np.sqrt(np.maximum(variances, 1e-300)))
    room = 1e-9 * (1 + np.abs(own).max())
    assert (np.diff(found) >= -room).all()
    assert (found >= own.min(axis=0) - room).all()
    assert (found <= own.max(axis=0) + room).all()


def test_quantiles_are_linear_between_those_that_there_are():
    values = np.array([[0.0, 10.0, 40.0], [1.0, 1.0, 2.0]], np.float32)
    found = interpolated_quantiles(values, (0.1, 0.5, 0.9), (0.1, 0.3, 0.7, 0.9))
    np.testing.assert_allclose(found, [[0, 5, 25, 40], [1, 1, 1.5, 2]])
