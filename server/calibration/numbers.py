"""Calibrates an ensemble of numbers: intervals that hold the truth as often as they should.

Runs in the process of the command line. Members' predictions and true numbers flow in, a
`NumberCalibration` flows out. Nothing else is fitted to the rows, so that all of them give scores;
the evaluation is on halves that are held out, of many random ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from server.calibration.conformal import (
    Coverage,
    IntervalData,
    evaluate_intervals,
    fit_intervals,
    measured_coverage,
)
from server.calibration.metrics import Array, Floats
from server.calibration.target import CalibrationTarget, EnsembleRule
from server.inference.conformal import ConformalSpec, TooFewRows
from server.inference.predictive import central_levels, conformal_bounds
from server.members.predictive import ConformalDocument
from workers.rules.distributions import (
    interpolated_quantiles,
    mixture_moments,
    mixture_quantiles,
)

__all__ = ["NumberCalibration", "calibrate_numbers"]


@dataclass(frozen=True)
class NumberCalibration:
    """The result.

    Attributes:
        target: the ensemble.
        rows: of the data.
        errors: root mean squared errors, by the name of the ensemble or member; of quantiles, that
            of the one nearest to the median.
        intervals: evaluated; the first are those that are served.
        conformal: what was fitted.
        notes: for the user, one line each.
        yaml: what to put into the configuration, empty if nothing is written.
        document: what to write for the coverage of intervals, if that was wanted.
    """

    target: CalibrationTarget
    rows: int
    errors: dict[str, float]
    intervals: list[Coverage]
    conformal: ConformalSpec
    notes: list[str]
    yaml: str = ""
    document: ConformalDocument | None = None


def calibrate_numbers(
    target: CalibrationTarget,
    predictions: Sequence[Array],
    y: Floats,
    *,
    coverage: float,
    seed: int,
) -> NumberCalibration:
    """Fit intervals, and evaluate them.

    Args:
        target: an ensemble of numbers.
        predictions: of each member, [rows, *its own shape].
        y: true numbers, [rows, elements of the answer].
        coverage: that is evaluated.
        seed: of the random halves.

    Raises:
        ConfigError: if the rule fails.
    """
    stacked = np.stack(predictions)
    combined = EnsembleRule(target, None).combine(stacked)
    data = list(_data(target, stacked, combined, y))
    notes = []
    try:
        intervals = [evaluate_intervals(one, coverage, seed) for one in data]
    except TooFewRows as error:
        intervals = []
        notes.append(f"half of the rows are too few for an evaluation: {error}")
    predicted = _predicted(target, stacked, combined, coverage)
    if predicted is not None:
        bounds = predicted.reshape(len(y), -1, 2)
        intervals.append(measured_coverage("as predicted", y, bounds, coverage))
    points = {target.name: _points(target, combined)}
    for member, one in zip(target.members, predictions, strict=True):
        points[member.name] = one[..., 0] if target.kind == "normal" else _points(target, one)
    errors = {
        name: float(np.sqrt(((one.reshape(y.shape) - y) ** 2).mean()))
        for name, one in points.items()
    }
    return NumberCalibration(target, len(y), errors, intervals, fit_intervals(data[0]), notes)


def _data(
    target: CalibrationTarget, stacked: Array, combined: Array, y: Floats
) -> Iterator[IntervalData]:
    """Yield what each method needs, the one that is served first."""
    bounds = conformal_bounds(target.kind, combined).reshape(len(y), -1, 2)
    if target.kind == "quantiles":
        yield IntervalData("cqr", y, bounds)
        return
    if target.kind == "normal":
        moments = mixture_moments(stacked[..., 0], stacked[..., 1], target.weights)
        deviations = np.sqrt(moments.aleatoric + moments.epistemic)
        yield IntervalData("normalised", y, bounds, deviations.reshape(y.shape))
    yield IntervalData("absolute", y, bounds)


def _predicted(
    target: CalibrationTarget, stacked: Array, combined: Array, coverage: float
) -> Array | None:
    """Return the intervals that the members predict by themselves, None if they don't."""
    levels = central_levels(coverage)
    if target.kind == "normal":
        return mixture_quantiles(stacked[..., 0], stacked[..., 1], target.weights, levels)
    own = target.members[0].output.config.levels
    if target.kind != "quantiles" or not own[0] <= levels[0] <= levels[1] <= own[-1]:
        return None
    return interpolated_quantiles(combined, own, levels)


def _points(target: CalibrationTarget, answers: Array) -> Array:
    """Return the numbers that stand for answers (or a member's predictions)."""
    if target.kind != "quantiles":
        return answers
    levels = np.array(target.members[0].output.config.levels)
    return np.asarray(answers[..., np.abs(levels - 0.5).argmin()])
