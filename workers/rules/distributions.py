"""Predictive distributions: mixtures of normal distributions, and quantiles.

Runs in the combiner (`mixture`) and in the front-end (all that is computed on request); pure. The
members' predictions flow in, means, variances and quantiles of the ensemble flow out. With member m
predicting a normal distribution of mean mu_m and variance v_m, and weights w_m that add up to 1:

========== =========================================== =============================================
mean       ``mu = sum_m w_m mu_m``
aleatoric  ``sum_m w_m v_m``                           noise in the data, as the members see it
epistemic  ``sum_m w_m (mu_m - mu)^2``                 what the members disagree about
variance   aleatoric + epistemic                       of the mixture
quantile   x where ``sum_m w_m Phi((x - mu_m) / sqrt(v_m))`` is the level
========== =========================================== =============================================

Sources: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles" (NeurIPS 2017), for the mixture; Depeweg et al., "Decomposition of Uncertainty in
Bayesian Deep Learning" (ICML 2018), for its two parts; Vincent, "The Functions of the Vibrissae in
the Behavior of the White Rat" (1912), and Ratcliff, "Group Reaction Time Distributions and an
Analysis of Distribution Statistics" (Psychological Bulletin 86, 1979), for the mean of quantiles,
which needs no code of its own: it is the rule `mean` over quantiles in ascending order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Moments",
    "interpolated_quantiles",
    "mixture",
    "mixture_moments",
    "mixture_quantiles",
    "normal_cdf",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: Newton's steps halve the bracket at worst, so this many always reach full precision.
_MOST_STEPS = 100
_PRECISION = 1e-12
_DENSITY = 1 / np.sqrt(2 * np.pi)
#: Stands for a standard deviation of 0.
_NARROWEST = 1e-150

# Hart et al., "Computer Approximations" (1968), no. 5666, as in West, "Better Approximations to
# Cumulative Normal Functions" (Wilmott Magazine, 2005): exact to double precision. NumPy has none.
_NUMERATOR = (
    3.52624965998911e-02,
    0.700383064443688,
    6.37396220353165,
    33.912866078383,
    112.079291497871,
    221.213596169931,
    220.206867912376,
)
_DENOMINATOR = (
    8.83883476483184e-02,
    1.75566716318264,
    16.064177579207,
    86.7807322029461,
    296.564248779674,
    637.333633378831,
    793.826512519948,
    440.413735824752,
)
_TAIL = 7.07106781186547
_FARTHEST = 37.0


class Moments(NamedTuple):
    """The mean of a mixture and the parts of its variance, float64 [rows, *shape] each."""

    mean: Floats
    aleatoric: Floats
    epistemic: Floats


def mixture(predictions: Array, weights: Array, out: Array) -> None:
    """``sum_m w_m mu_m / sum_m w_m``: the mean of the mixture of the members' distributions.

    Predictions are the means and variances of normal distributions, [members, rows, *shape, 2]; or
    plain values, [members, rows, *shape]. The variances count only in what is asked for beside it.
    """
    means = predictions[..., 0] if predictions.ndim > out.ndim + 1 else predictions
    np.einsum("m,m...->...", (weights / weights.sum()).astype(means.dtype), means, out=out)


def mixture_moments(means: Array, variances: Array | None, weights: Array) -> Moments:
    """Return the moments of mixtures of means and variances [members, rows, *shape].

    Args:
        means: of the members.
        variances: of the members, None if they give none: their mean is 0 then.
        weights: [members], positive.
    """
    shares = weights / weights.sum()
    centres = means.astype(np.float64)
    mean = np.einsum("m,m...->...", shares, centres)
    epistemic = np.einsum("m,m...->...", shares, (centres - mean) ** 2)
    if variances is None:
        return Moments(mean, np.zeros_like(mean), epistemic)
    return Moments(mean, np.einsum("m,m...->...", shares, variances.astype(np.float64)), epistemic)


def mixture_quantiles(
    means: Array, variances: Array, weights: Array, levels: Sequence[float]
) -> Floats:
    """Return quantiles of mixtures of normal distributions, [rows, *shape, levels].

    They are the roots of the mixtures' distribution functions, found by Newton's method within a
    bracket that is halved wherever a step would leave it: a quantile of a mixture lies between the
    least and the largest of the members' own.

    Args:
        means: [members, rows, *shape].
        variances: the same, 0 or more.
        weights: [members], positive.
        levels: above 0 and below 1.
    """
    shares = (weights / weights.sum()).reshape(-1, *[1] * means.ndim)
    centres = means.astype(np.float64)[..., np.newaxis]
    spreads = np.maximum(np.sqrt(variances.astype(np.float64)), _NARROWEST)[..., np.newaxis]
    wanted = np.array(levels)
    own = centres + spreads * _normal_quantiles(wanted)
    return _search(_Components(shares, centres, spreads), wanted, own.min(axis=0), own.max(axis=0))


class _Components(NamedTuple):
    """The normal distributions of mixtures, each [members, ..., 1]; shares add up to 1."""

    shares: Floats
    centres: Floats
    spreads: Floats


def _normal_quantiles(levels: Floats) -> Floats:
    """Return quantiles of the standard normal distribution."""
    farthest = np.full(levels.shape, _FARTHEST)
    one = np.ones((1, 1))
    return _search(_Components(one, 0 * one, one), levels, -farthest, farthest)


def _search(components: _Components, levels: Floats, low: Floats, high: Floats) -> Floats:
    """Return where mixtures' distribution functions have these levels, between low and high."""
    shares, centres, spreads = components
    x = (low + high) / 2
    for _ in range(_MOST_STEPS):
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            z = np.clip((x - centres) / spreads, -_FARTHEST, _FARTHEST)
            excess = (shares * normal_cdf(z)).sum(axis=0) - levels
            low, high = np.where(excess < 0, x, low), np.where(excess > 0, x, high)
            density = (shares * (_DENSITY / spreads) * np.exp(-0.5 * z * z)).sum(axis=0)
            step = x - excess / density
        middle = (low + high) / 2
        following = np.where((step > low) & (step < high), step, middle)
        following = np.where(excess == 0, x, following)
        moved, x = np.abs(following - x), following
        if (moved <= _PRECISION * (np.abs(x) + spreads.min(axis=0))).all():
            break
    return np.asarray(x)


def normal_cdf(z: Array) -> Floats:
    """Return the distribution function of the standard normal distribution, elementwise."""
    size = np.minimum(np.abs(z), _FARTHEST)
    bell = np.exp(-0.5 * size * size)
    upper = bell * np.polyval(_NUMERATOR, size) / np.polyval(_DENOMINATOR, size)
    if (far := size >= _TAIL).any():
        fraction = size[far] + 0.65
        for numerator in (4.0, 3.0, 2.0, 1.0):
            fraction = size[far] + numerator / fraction
        upper[far] = bell[far] / fraction * _DENSITY
    return np.asarray(np.where(z > 0, 1 - upper, upper))


def interpolated_quantiles(
    values: Array, own_levels: Sequence[float], levels: Sequence[float]
) -> Floats:
    """Return quantiles at other levels, linear between those that there are.

    Args:
        values: the quantiles that there are, [..., own_levels].
        own_levels: ascending.
        levels: those that are wanted, within `own_levels`.

    Returns:
        float64 [..., levels].
    """
    basis = np.eye(len(own_levels))
    share = np.stack([np.interp(levels, own_levels, one) for one in basis])
    return np.asarray(values.astype(np.float64) @ share)
