"""A Gaussian process over the logarithm of a cost, around a trend of physical terms.

Pure. Points flow in, some of them with the logarithm of what was measured there; predictions of
others flow out, with their uncertainty. `allocator.surrogate.surrogate` says what the terms are.

The trend is a sum of terms, each with a rate: f(x) = sum over j of exp(rate[j, kind]) x[j]. Rates
have log-normal priors, in part shared by the kinds of a family of devices, so what is measured on
one member tells about all others there. What the trend misses is a Gaussian process: a factor per
member, one per member and kind, and curves over the batch size. This is universal kriging with a
non-linear trend (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section
2.7; Kennedy and O'Hagan 2001 for the discrepancy), whose rates are found by Gauss-Newton steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Deviations", "Estimate", "Fitted", "Points", "Rates", "fit"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_STEPS = 30
#: Steps end when they change no rate by more than this share.
_LAST_STEP = 1e-4
#: Stands for a variance of 0.
_TINY = 1e-12
#: How many residuals the prior belief in the deviations is worth.
_BELIEF = 20.0


class Points(NamedTuple):
    """Where a cost is known or asked for: indices and log2 of the batch [n], terms [n, terms]."""

    member: Ints
    kind: Ints
    family: Ints
    octave: Floats
    terms: Floats


@dataclass(frozen=True)
class Rates:
    """The prior of the rates: log seconds (or bytes) per unit, [families, terms] each.

    Attributes:
        centre: their medians.
        shared: standard deviations of what all kinds of a family have in common.
        own: ... of what is a kind's own.
    """

    centre: Floats
    shared: Floats
    own: Floats


@dataclass(frozen=True)
class Deviations:
    """Standard deviations of the logarithm from the trend, and how far curves are alike.

    Attributes:
        member: a member's factor, the same everywhere; [members].
        pair: a factor of its own on each kind.
        curve: over batch sizes, of a member on a kind.
        kind_curve: over batch sizes, of all members on a kind.
        octaves: by which factor batch sizes differ, as its log2, until curves have little to do
            with each other.
        noise: of a measurement.
    """

    member: Floats
    pair: float
    curve: float
    kind_curve: float
    octaves: float
    noise: float


class Estimate(NamedTuple):
    """Predictions: the logarithm's mean [n], and covariance [n, n] (without noise)."""

    mean: Floats
    covariance: Floats


@dataclass(frozen=True)
class Fitted:
    """A process that knows what was measured; `scale` multiplies its standard deviations."""

    points: Points
    rates: Rates
    deviations: Deviations
    step: Floats
    whitened: Floats
    inverse: Floats
    scale: float

    def predict(self, points: Points) -> Estimate:
        """Return what the cost is expected to be at some points."""
        jacobian = _jacobian(points, self.rates, self.step)
        prior = _prior(self.rates, _kinds(self.step, self.rates))
        mean = _trend(points, self.rates, self.step) - jacobian @ self.step
        covariance = (jacobian * prior) @ jacobian.T + _residual(points, points, self.deviations)
        if len(self.points.member):
            known = _jacobian(self.points, self.rates, self.step)
            cross = (jacobian * prior) @ known.T + _residual(points, self.points, self.deviations)
            mean = mean + cross @ self.whitened
            covariance = covariance - cross @ self.inverse @ cross.T
        return Estimate(mean, covariance * self.scale**2)


def fit(
    points: Points, logs: Floats, rates: Rates, deviations: Deviations, *, kinds: int
) -> Fitted:
    """Fit the process to measurements, perhaps none.

    The scale of all standard deviations is calibrated by the residuals that each measurement has if
    it is left out (in closed form, Rasmussen and Williams, section 5.4.2).

    Args:
        points: where was measured.
        logs: the logarithm of what, [n].
        rates: their prior.
        deviations: from the trend.
        kinds: how many kinds of devices there are.
    """
    prior = _prior(rates, kinds)
    noise = deviations.noise**2 * np.eye(len(logs))
    residual = _residual(points, points, deviations) + noise
    step = _best_step(points, logs, rates, prior, residual)
    jacobian = _jacobian(points, rates, step)
    covariance = (jacobian * prior) @ jacobian.T + residual
    inverse: Floats = np.asarray(np.linalg.inv(covariance), np.float64)
    whitened = inverse @ (logs - _trend(points, rates, step) + jacobian @ step)
    left_out = whitened**2 / np.diag(inverse) if len(logs) else logs
    scale = np.sqrt((_BELIEF + left_out.sum()) / (_BELIEF + len(logs)))
    return Fitted(points, rates, deviations, step, whitened, inverse, float(scale))


def _best_step(
    points: Points, logs: Floats, rates: Rates, prior: Floats, residual: Floats
) -> Floats:
    """The most likely step of the rates from their prior medians, by damped Gauss-Newton steps."""
    step, precision = np.zeros(len(prior)), np.linalg.inv(residual)

    def misfit(at: Floats) -> float:
        missed = logs - _trend(points, rates, at)
        unlikely = at**2 / np.maximum(prior, _TINY)
        return float(missed @ precision @ missed + unlikely.sum())

    for _ in range(_STEPS if len(logs) else 0):
        jacobian = _jacobian(points, rates, step)
        covariance = (jacobian * prior) @ jacobian.T + residual
        missed = logs - _trend(points, rates, step) + jacobian @ step
        change = prior * (jacobian.T @ np.linalg.solve(covariance, missed)) - step
        share, now = 1.0, misfit(step)
        while share > _LAST_STEP and misfit(step + share * change) > now:
            share /= 2
        step = step + share * change
        if share * float(np.abs(change).max()) < _LAST_STEP:
            break
    return step


def _kinds(step: Floats, rates: Rates) -> int:
    return int(len(step) - rates.centre.size) // int(rates.centre.shape[1])


def _prior(rates: Rates, kinds: int) -> Floats:
    """Variances of the steps: first what families share, then each kind's own, [parameters]."""
    # A kind is of one family: of the others' own deviations nothing is ever asked.
    own = np.repeat(rates.own.max(axis=0)[np.newaxis], kinds, axis=0)
    return np.concatenate([rates.shared.ravel(), own.ravel()]) ** 2


def _costs(points: Points, rates: Rates, step: Floats) -> Floats:
    """What each term costs at each point, [n, terms]."""
    families = step[: rates.centre.size].reshape(rates.centre.shape)
    own = step[rates.centre.size :].reshape(-1, rates.centre.shape[1])
    log_rates = (rates.centre + families)[points.family] + own[points.kind]
    return np.asarray(np.exp(log_rates) * points.terms, np.float64)


def _trend(points: Points, rates: Rates, step: Floats) -> Floats:
    return np.asarray(np.log(_costs(points, rates, step).sum(axis=1)), np.float64)


def _jacobian(points: Points, rates: Rates, step: Floats) -> Floats:
    """How the trend's logarithm changes with each parameter: the terms' shares, [n, parameters]."""
    costs = _costs(points, rates, step)
    shares = costs / costs.sum(axis=1, keepdims=True)
    rows, (families, terms) = np.arange(len(costs))[:, np.newaxis], rates.centre.shape
    columns = np.arange(terms)
    table = np.zeros((len(costs), len(step)))
    table[rows, points.family[:, np.newaxis] * terms + columns] = shares
    table[rows, (families + points.kind[:, np.newaxis]) * terms + columns] = shares
    return table


def _residual(a: Points, b: Points, deviations: Deviations) -> Floats:
    """The covariance of what the trend misses, [len(a), len(b)]."""
    same_member = np.equal.outer(a.member, b.member)
    same_kind = np.equal.outer(a.kind, b.kind)
    apart = math.sqrt(3) * np.abs(np.subtract.outer(a.octave, b.octave)) / deviations.octaves
    alike = (1 + apart) * np.exp(-apart)  # Matern's kernel of order 3/2: smooth, but not too much
    own = deviations.pair**2 + deviations.curve**2 * alike
    return np.asarray(
        same_member * deviations.member[a.member][:, np.newaxis] ** 2
        + (same_member & same_kind) * own
        + same_kind * deviations.kind_curve**2 * alike
    )
