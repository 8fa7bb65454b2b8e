"""Outputs computed on request: parts of the variance, intervals, quantiles, sets of classes.

Runs in the front-end, under every protocol; pure. A request for such an output flows in and is
checked; later the engine's answer flows in, with the members' predictions where they are needed,
and an array flows out. What rests on members applies to those that contributed to each row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from server.engine.request import Answer
from server.errors import InvalidRequest
from server.inference.conformal import TooFewRows, interval, set_scores, thresholds
from server.inference.requests import RequestedOutput
from server.inference.spec import ModelSpec, PredictiveSpec
from workers.rules.distributions import (
    Moments,
    interpolated_quantiles,
    mixture_moments,
    mixture_quantiles,
)
from workers.runtime.spec import TensorSpec

__all__ = [
    "central_levels",
    "check_predictive",
    "conformal_bounds",
    "needs_predictions",
    "predictive_array",
    "predictive_outputs",
]

Array = npt.NDArray[Any]

_PARTS: dict[str, Callable[[Moments], Array]] = {
    "aleatoric": lambda moments: moments.aleatoric,
    "epistemic": lambda moments: moments.epistemic,
    "variance": lambda moments: moments.aleatoric + moments.epistemic,
}
_INTERVAL, _QUANTILES, _SET = "interval", "quantiles", "prediction_set"
#: The members' kinds that are distributions.
_DISTRIBUTIONS = ("normal", "quantiles")


def predictive_outputs(model: ModelSpec) -> tuple[TensorSpec, ...]:
    """Return the outputs that a model has of this sort, without their batch dimension.

    How many quantiles there are is the request's choice, -1.
    """
    predictive, output = model.predictive, model.served.spec.output
    if predictive is None:
        return ()
    if predictive.kind == "classes":
        return (TensorSpec(_SET, "BOOL", output.shape),)
    shape = output.shape[:-1] if predictive.kind == "quantiles" else output.shape
    parts = {"normal": tuple(_PARTS), "values": ("epistemic",)}.get(predictive.kind, ())
    names = {part: shape for part in parts if model.served.spec.rule == "mixture"}
    if predictive.conformal is not None or predictive.widest_coverage > 0:
        names[_INTERVAL] = (*shape, 2)
    if predictive.kind in _DISTRIBUTIONS:
        names[_QUANTILES] = (*shape, -1)
    return tuple(TensorSpec(name, output.datatype, one) for name, one in names.items())


def needs_predictions(model: ModelSpec, name: str) -> bool:
    """Whether an output is computed from the members' own predictions."""
    predictive = model.predictive
    if predictive is None or name not in {*_PARTS, _INTERVAL, _QUANTILES}:
        return False
    return name in _PARTS and model.served.spec.rule == "mixture" or predictive.kind == "normal"


def check_predictive(model: ModelSpec, requested: RequestedOutput, *, some_members: bool) -> None:
    """Raise `InvalidRequest` if an output of `predictive_outputs` can't be as it is requested.

    `some_members`: whether the request selects members, for whom nothing conformal was fitted.
    """
    predictive = model.predictive
    assert predictive is not None
    if requested.name == _QUANTILES:
        if not (requested.levels or predictive.levels):
            raise InvalidRequest(
                'output quantiles needs the parameter quantiles: which ones, e.g. "0.1,0.5,0.9"'
            )
        _check_levels(predictive, requested.levels, "parameter quantiles")
        return
    if requested.name not in {_INTERVAL, _SET}:
        return
    coverage = requested.coverage or predictive.coverage
    if predictive.conformal is None:
        _check_levels(predictive, central_levels(coverage), f"a coverage of {coverage:g}")
        return
    if some_members:
        raise InvalidRequest(
            f"output {requested.name!r} was calibrated for all members of {model.name!r}: "
            "leave out the parameter members"
        )
    try:
        thresholds(predictive.conformal, coverage)
    except TooFewRows as error:
        raise InvalidRequest(f"parameter coverage: {error}") from None


def _check_levels(predictive: PredictiveSpec, levels: tuple[float, ...], where: str) -> None:
    own = predictive.levels
    if levels and not 0 < levels[0] <= levels[-1] < 1:
        raise InvalidRequest(f"{where} is too near 1")
    if own and levels and not own[0] <= levels[0] <= levels[-1] <= own[-1]:
        raise InvalidRequest(
            f"{where} is outside the quantiles that the members predict, {own[0]:g} to {own[-1]:g}"
        )


def central_levels(coverage: float) -> tuple[float, float]:
    """Return the levels of the interval that leaves out as much on either side."""
    # Without the noise of 1 - 0.8, which is outside quantiles from 0.1 on.
    below = round((1 - coverage) / 2, 12)
    return below, 1 - below


def predictive_array(model: ModelSpec, answer: Answer, requested: RequestedOutput) -> Array:
    """Return an output, [rows, *its shape]; the request was checked by `check_predictive`."""
    predictive, output = model.predictive, model.served.spec.output
    assert predictive is not None
    if requested.name in _PARTS:
        return _part(model, answer, requested.name)
    combined = np.frombuffer(answer.values, output.dtype).reshape(answer.rows, *output.shape)
    coverage, conformal = requested.coverage or predictive.coverage, predictive.conformal
    if requested.name == _QUANTILES or conformal is None:
        levels = requested.levels or predictive.levels
        wanted = levels if requested.name == _QUANTILES else central_levels(coverage)
        return _quantiles(model, answer, combined, wanted)
    limits = thresholds(conformal, coverage)
    if requested.name == _SET:
        return np.asarray(set_scores(conformal, combined) <= limits)
    scale = None
    if conformal.method == "normalised":
        scale = np.sqrt(_part(model, answer, "variance").astype(np.float64))
    bounds = conformal_bounds(predictive.kind, combined)
    return interval(bounds, limits.reshape(bounds.shape[1:-1]), scale).astype(output.dtype)


def conformal_bounds(kind: str, combined: Array) -> Array:
    """Return what a conformal interval widens: the outermost quantiles, or twice the prediction.

    From the combined answers of members of a kind, [rows, ...], to [rows, ..., 2]; quantiles are
    the last axis of theirs.
    """
    if kind == "quantiles":
        return np.asarray(combined[..., [0, -1]])
    return np.stack([combined, combined], axis=-1)


def _quantiles(
    model: ModelSpec, answer: Answer, combined: Array, levels: tuple[float, ...]
) -> Array:
    predictive, output = model.predictive, model.served.spec.output
    assert predictive is not None
    if predictive.kind == "quantiles":
        return interpolated_quantiles(combined, predictive.levels, levels).astype(output.dtype)

    def quantiles(means: Array, variances: Array | None, weights: Array) -> Array:
        assert variances is not None, "the members give distributions"
        return mixture_quantiles(means, variances, weights, levels)

    return _of_members(model, answer, quantiles, (len(levels),))


def _part(model: ModelSpec, answer: Answer, name: str) -> Array:
    """Return a part of the variance of each row's mixture."""
    return _of_members(model, answer, lambda *members: _PARTS[name](mixture_moments(*members)))


def _of_members(
    model: ModelSpec,
    answer: Answer,
    compute: Callable[[Array, Array | None, Array], Array],
    tail: tuple[int, ...] = (),
) -> Array:
    """Compute rows from the members that contributed to them, all of the same members at once.

    `compute` gets their means and variances [members, rows, *output], and weights; it returns
    [rows, *output, *tail].
    """
    spec, extras = model.served.spec, answer.extras
    assert extras is not None, "they were requested"
    assert model.predictive is not None
    weights = np.array(spec.weights or (1.0,) * len(spec.members))
    found = np.empty((answer.rows, *spec.output.shape, *tail), spec.output.dtype)
    for used in np.unique(extras.used).tolist():
        rows = np.flatnonzero(extras.used == np.uint64(used))
        places = [i for i, member in enumerate(spec.members) if used >> member & 1]
        predictions = np.stack([extras.predictions[spec.main.areas[i]][rows] for i in places])
        if model.predictive.kind == "normal":
            found[rows] = compute(predictions[..., 0], predictions[..., 1], weights[places])
        else:
            found[rows] = compute(predictions, None, weights[places])
    return found
