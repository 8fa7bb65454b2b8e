"""Fits everything that can be fitted of an ensemble, on the rows that are for it.

Runs in the process of the command line; pure, but for rules of the user's own, which are imported.
Members' predictions flow in; temperatures, weights, counts and thresholds flow out, rounded as they
will be written down, so that what is judged is what is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from server.calibration.cascades import Stages, allowed_losses, choose_thresholds
from server.calibration.combining import Rule
from server.calibration.metrics import Classes, Floats
from server.calibration.selection import Counts, select
from server.calibration.subject import Subject
from server.calibration.temperatures import HIGHEST, fit_temperature, logarithms, tempered
from server.calibration.weights import fit_weights
from server.members.member import InspectedMember

__all__ = ["Fit", "Options", "fit", "has_temperature"]

Weighting = Literal["keep", "fitted", "selected"]

#: A configuration has no weight of 0.
_LEAST_WEIGHT = 1e-4
_DIGITS = 4


@dataclass(frozen=True)
class Options:
    """What the user wants.

    Attributes:
        weighting: which weights to write: the ensemble's rule as it is, the weighted mean with
            fitted weights, or with those of the greedy selection. None is `fitted` for an ensemble
            whose rule is a weighted mean, else `keep`.
        max_loss: of a cascade, as a share of the rows.
        bags: of the greedy selection.
        seed: of all chance.
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
        predictions: of all rows by these temperatures, [members, rows, classes].
        weights: of a weighted mean; they add up to 1 but for rounding.
        counts: how often the greedy selection took each member.
        rule: what is to be written down: the ensemble's own, or a weighted mean.
        is_new_rule: whether that is not as configured.
        confidence: thresholds of the cascade, None if there can be none.
        notes: what the user should know, one line each.
    """

    temperatures: tuple[float, ...]
    predictions: Floats
    weights: tuple[float, ...]
    counts: Counts
    rule: Rule
    is_new_rule: bool
    confidence: tuple[float, ...] | None
    notes: tuple[str, ...]

    def apply(self, subject: Subject, predictions: Floats) -> Floats:
        """What the members predict with the new temperatures, of predictions with the old ones."""
        return _tempered_anew(subject, predictions, self.temperatures)

    @property
    def selection(self) -> tuple[float, ...]:
        """The greedy selection as weights."""
        return written_weights(self.counts / self.counts.sum())


def has_temperature(member: InspectedMember) -> bool:
    """Whether a member's output is softened by a temperature."""
    return member.config.output in {"logits", "probabilities"}


def written_weights(weights: Floats) -> tuple[float, ...]:
    """Weights as they are written down: rounded, and none of them 0."""
    return tuple(max(round(float(one), _DIGITS), _LEAST_WEIGHT) for one in weights)


def fit(
    subject: Subject,
    predictions: Floats,
    y: Classes,
    *,
    rows: npt.NDArray[np.int64],
    options: Options,
    directory: str = "",
) -> Fit:
    """Fit everything.

    Args:
        subject: the ensemble.
        predictions: by the temperatures that are configured, of all rows, held-out ones, too:
            [members, rows, classes].
        y: classes of all rows.
        rows: numbers of those to fit on.
        options: what the user wants.
        directory: where the user's own rules are.

    Raises:
        ConfigError: if the ensemble's rule fails.
    """
    notes: list[str] = []
    temperatures = _fit_temperatures(subject, predictions[:, rows], y[rows], notes)
    fitted = _tempered_anew(subject, predictions, temperatures)
    truth = fitted[:, rows, y[rows]]
    weights = written_weights(fit_weights(truth))
    counts = select(truth, bags=options.bags, seed=options.seed)
    own = "fitted" if subject.config.rule == "weighted_mean" else "keep"
    written = {
        "keep": None,
        "fitted": weights,
        "selected": written_weights(counts / counts.sum()),
    }[options.weighting or own]
    rule = Rule(subject, written, directory)
    confidence = None
    if len(subject.stages) > 1:
        stages = rule.stages(fitted[:, rows], y[rows], subject.stages)
        confidence = _fit_cascade(stages, options.max_loss, notes)
    else:
        notes.append("no cascade: there is only one stage")
    return Fit(
        temperatures=temperatures,
        predictions=fitted,
        weights=weights,
        counts=counts,
        rule=rule,
        is_new_rule=written is not None,
        confidence=confidence,
        notes=tuple(notes),
    )


def _fit_cascade(stages: Stages, max_loss: float, notes: list[str]) -> tuple[float, ...] | None:
    """Thresholds of a cascade, or None."""
    confidence = choose_thresholds(stages, max_loss)
    thresholds, rows = len(stages.sizes) - 1, len(stages.y)
    if confidence is None:
        notes.append(
            f"no cascade: stages are utterly sure of wrong classes, so it loses more than "
            f"{max_loss:.2%} whatever the thresholds are"
        )
    elif allowed_losses(rows, max_loss, thresholds)[1] < 1:
        notes.append(
            f"{rows} rows are too few to show a loss of {max_loss:.2%} at {thresholds} thresholds: "
            f"they lose none of these rows, and were raised for safety"
        )
    return confidence


def _tempered_anew(subject: Subject, predictions: Floats, temperatures: Sequence[float]) -> Floats:
    """What members predict with other temperatures than their configured ones.

    Args:
        subject: the ensemble.
        predictions: with the configured temperatures, [members, rows, classes].
        temperatures: one per member.
    """
    return np.stack(
        [
            p
            if temperature == member.config.temperature
            else tempered(_logarithms(member, p), temperature / member.config.temperature)
            for member, p, temperature in zip(
                subject.members, predictions, temperatures, strict=True
            )
        ]
    )


def _fit_temperatures(
    subject: Subject, predictions: Floats, y: Classes, notes: list[str]
) -> tuple[float, ...]:
    """The temperatures that replace the members' own."""
    temperatures = []
    for member, p in zip(subject.members, predictions, strict=True):
        factor = 1.0
        if has_temperature(member):
            factor = fit_temperature(_logarithms(member, p), y)
            if (p.argmax(axis=1) == y).all():
                notes.append(f"{member.name} is right in all rows: its temperature can't be fitted")
            elif factor == HIGHEST:
                notes.append(
                    f"{member.name} is no better than chance: its temperature is {factor:g}"
                )
        # What it predicts comes with its own temperature; so the one that is found multiplies it.
        temperatures.append(float(f"{member.config.temperature * factor:.{_DIGITS}g}"))
    return tuple(temperatures)


def _logarithms(member: InspectedMember, p: Floats) -> Floats:
    return logarithms(p, of_logits=member.config.output == "logits")
