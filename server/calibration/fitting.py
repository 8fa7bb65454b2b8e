"""Fits everything that can be fitted of an ensemble, on the rows that are for it.

Runs in the process of the command line; pure, but for custom rules. Members' predictions flow in;
temperatures, weights, counts and thresholds flow out, rounded as they will be written into the
configuration, so that what is evaluated is what is written. That is a fragment of YAML and not a
whole configuration, because one that is read and written again loses its comments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from server.calibration.cascade_thresholds import (
    StageAnswers,
    allowed_losses,
    choose_thresholds,
)
from server.calibration.metrics import ClassIndices, Floats, Rows
from server.calibration.target import CalibrationTarget, EnsembleRule
from server.calibration.temperature_scaling import fit_member, has_temperature, rescale
from server.calibration.weights import Counts, fit_weights, select_members
from server.members.combining import shared_outputs
from server.members.inspect import InspectedMember
from server.versions import public_name, shown_names

__all__ = ["Fit", "FitOptions", "conformal_fragment", "fit", "yaml_fragment"]

Weighting = Literal["keep", "fitted", "selected"]

#: A configuration has no weight of 0.
_MIN_WEIGHT = 1e-4
_DIGITS = 4
#: Longer lines are folded.
_MAX_LINE = 1_000_000


@dataclass(frozen=True)
class FitOptions:
    """The options of a fit, see `ensembled calibrate`.

    A `weighting` of None is `fitted` for an ensemble whose rule is a weighted mean, else `keep`;
    `max_loss` of a cascade is a share of the rows; `bags` are those of the greedy selection.
    """

    weighting: Weighting | None = None
    max_loss: float = 0.002
    bags: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """What was fitted.

    Attributes:
        temperatures: that replace the members' own.
        predictions: of all rows with these temperatures, [members, rows, classes].
        weights: of a weighted mean; they add up to 1 but for rounding.
        counts: how often the greedy selection chose each member.
        selection: the same as weights.
        rule: to be written: the ensemble's own, or a weighted mean.
        is_new_rule: whether that differs from the configuration.
        confidence: thresholds of the cascade, None if there can be none.
        notes: for the user, one line each.
    """

    temperatures: tuple[float, ...]
    predictions: Floats
    weights: tuple[float, ...]
    counts: Counts
    selection: tuple[float, ...]
    rule: EnsembleRule
    is_new_rule: bool
    confidence: tuple[float, ...] | None
    notes: list[str]


def fit(
    target: CalibrationTarget,
    predictions: Floats,
    y: ClassIndices,
    *,
    rows: Rows,
    options: FitOptions,
) -> Fit:
    """Fit everything on some of the rows.

    Predictions [members, rows, classes], with the configured temperatures, and `y` [rows] are of
    all rows, held-out ones, too.

    Raises:
        ConfigError: if the ensemble's rule fails.
    """
    fits = [
        fit_member(member, p[rows], y[rows])
        for member, p in zip(target.members, predictions, strict=True)
    ]
    temperatures = tuple(temperature for temperature, _ in fits)
    notes = [note for _, note in fits if note is not None]
    fitted = rescale(target.members, predictions, temperatures)
    truth = fitted[:, rows, y[rows]]
    weights = _rounded(fit_weights(truth))
    counts = select_members(truth, bags=options.bags, seed=options.seed)
    selection = _rounded(counts / counts.sum())
    default = "fitted" if target.rule == "weighted_mean" else "keep"
    new_weights = {"keep": None, "fitted": weights, "selected": selection}[
        options.weighting or default
    ]
    rule = EnsembleRule(target, new_weights)
    confidence = None
    if len(target.stages) > 1:
        stages = rule.combine_stages(fitted[:, rows], y[rows], target.stages)
        confidence = _fit_cascade(stages, options.max_loss, notes)
    else:
        notes.append("no cascade: there is only one stage")
    return Fit(
        temperatures=temperatures,
        predictions=fitted,
        weights=weights,
        counts=counts,
        selection=selection,
        rule=rule,
        is_new_rule=new_weights is not None,
        confidence=confidence,
        notes=notes,
    )


def _rounded(weights: Floats) -> tuple[float, ...]:
    """Weights as they are written: rounded, and none of them 0."""
    return tuple(max(round(float(one), _DIGITS), _MIN_WEIGHT) for one in weights)


def _fit_cascade(
    stages: StageAnswers, max_loss: float, notes: list[str]
) -> tuple[float, ...] | None:
    """Thresholds of a cascade, or None."""
    confidence = choose_thresholds(stages, max_loss)
    thresholds, rows = len(stages.sizes) - 1, len(stages.y)
    if confidence is None:
        notes.append(
            f"no cascade: stages are absolutely certain of wrong classes, so it loses more than "
            f"{max_loss:.2%} whatever the thresholds are"
        )
    elif allowed_losses(rows, max_loss, thresholds)[1] < 1:
        notes.append(
            f"{rows} rows are too few to show a loss of {max_loss:.2%} at {thresholds} thresholds: "
            f"they lose none of these rows, and were raised for safety"
        )
    return confidence


def yaml_fragment(
    target: CalibrationTarget, fit: Fit, about: str, more: Mapping[str, str | float] | None = None
) -> str:
    """Return the keys that change, with their values; valid YAML, after a line about its origin.

    `more` are further keys of the ensemble, for what was written into a file.
    """
    return "\n".join([f"# {about}", *_lines(target, fit, more or {})]) + "\n"


def conformal_fragment(
    target: CalibrationTarget, keys: Mapping[str, str | float], about: str
) -> str:
    """Return an ensemble's keys for what was written into a file."""
    own = [f"    {key}: {_flow(value)}" for key, value in keys.items()]
    return "\n".join([f"# {about}", "ensembles:", *_heading(target.name), *own]) + "\n"


def _lines(target: CalibrationTarget, fit: Fit, more: Mapping[str, str | float]) -> Iterator[str]:
    yield "members:"
    by_name: defaultdict[str, list[tuple[InspectedMember, float]]] = defaultdict(list)
    for member, temperature in zip(target.members, fit.temperatures, strict=True):
        if has_temperature(member):
            by_name[public_name(member.name).name].append((member, temperature))
        else:
            yield f"  # {member.name} predicts a class: it has no temperature"
    for name, fitted in by_name.items():
        if len(fitted) == 1:
            yield from _heading(fitted[0][0].name)
            yield from _temperature(*fitted[0])
        else:  # of several versions; what they have of their own is beside their models
            yield from (f"  {_flow(name)}:", "    model:", "      versions:")
            for member, temperature in fitted:
                version = _flow(public_name(member.name).version)
                yield f"        {version}: {{temperature: {_flow(temperature)}}}"
    names = shown_names([member.name for member in target.members])
    yield "ensembles:"
    yield from _heading(target.name)
    if fit.is_new_rule and fit.rule.weights is not None:
        yield f"    rule: {_flow(_weighted(target))}"
        yield f"    weights: {_flow(dict(zip(names, fit.rule.weights, strict=True)))}"
    else:
        yield f"    rule: {_flow(target.config.rule)}"
        yield "    # Weights for `rule: weighted_mean`, by --weights fitted or selected:"
        yield f"    # fitted: {_flow(dict(zip(names, fit.weights, strict=True)))}"
        yield f"    # selected: {_flow(dict(zip(names, fit.selection, strict=True)))}"
    yield from (f"    {key}: {_flow(value)}" for key, value in more.items())
    if fit.confidence is not None:
        # What was fitted for coverage is for the answers of all members where there is no cascade.
        is_other = bool(more) and target.config.cascade is None
        if is_other:
            yield "    # With this cascade, coverage needs to be calibrated again:"
        mark = "# " if is_other else ""
        yield f"    {mark}cascade: {_flow(_shown_stages(target))}"
        yield f"    {mark}confidence: {_flow(list(fit.confidence))}"


def _heading(name: str) -> Iterator[str]:
    """The key of a member or an ensemble, which may be one of several versions."""
    public = public_name(name)
    yield f"  {_flow(public.name)}:"
    if name != public.name:
        yield f"    # Of version {public.version}:"


def _shown_stages(target: CalibrationTarget) -> list[list[str]]:
    names = [member.name for member in target.members]
    shown = dict(zip(names, shown_names(names), strict=True))
    return [[shown[name] for name in stage] for stage in target.stages]


def _temperature(member: InspectedMember, temperature: float) -> Iterator[str]:
    if not member.config.outputs:
        yield f"    temperature: {_flow(temperature)}"
        return
    yield "    outputs:"
    yield f"      {_flow(next(iter(member.config.outputs)))}:"
    yield f"        temperature: {_flow(temperature)}"


def _weighted(target: CalibrationTarget) -> str | dict[str, str]:
    """The ensemble's rule, or rules by output, with `weighted_mean` for the main output."""
    rule, new = target.config.rule, "weighted_mean"
    main = next(iter(shared_outputs(target.members)))
    return new if isinstance(rule, str) else {**rule, main: new}


def _flow(value: str | float | list[Any] | Mapping[str, Any]) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=_MAX_LINE, sort_keys=False)
    return text.removesuffix("...\n").strip()
