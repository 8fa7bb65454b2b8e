"""How good an ensemble is before and after it was fitted, on rows that were held out.

Runs in the process of the command line; pure. A fit and the rows flow in, a `Report` flows out,
which the command shows as tables, as JSON and as a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from server.calibration.cascades import Outcome, run_cascade
from server.calibration.combining import Rule
from server.calibration.fitting import Fit
from server.calibration.metrics import (
    Bin,
    Classes,
    Floats,
    Quality,
    accuracy,
    quality,
    reliability,
)
from server.calibration.subject import Subject

__all__ = ["CascadeReport", "Combined", "MemberReport", "Report", "judge"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MemberReport:
    """A member: what was fitted, and how good it is with its old and its new temperature."""

    old_temperature: float
    temperature: float
    weight: float
    selected: int
    before: Quality
    after: Quality


@dataclass(frozen=True)
class Combined:
    """One way to combine the members.

    Attributes:
        accuracy: share of the rows that it has right.
        quality: None for a rule whose answers are no probabilities.
        member_rows_per_row: members that predict a row, on average.
    """

    accuracy: float
    quality: Quality | None
    member_rows_per_row: float


@dataclass(frozen=True)
class CascadeReport:
    """A cascade: thresholds, and what they do to rows.

    Attributes:
        confidence: after each stage but the last.
        saved: share of the member-rows that nobody predicts, on held-out rows.
        saved_fitting: the same on the rows that it was fitted on.
        accuracy: of the cascade, on held-out rows.
        whole_accuracy: of the same rule over all members.
        leaving: share of the rows that leave after each stage.
    """

    confidence: tuple[float, ...]
    saved: float
    saved_fitting: float
    accuracy: float
    whole_accuracy: float
    leaving: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """Everything, on held-out rows.

    Attributes:
        members: by name.
        combined: by what is done.
        cascade: None if there can be none.
        before: reliability of the ensemble as configured, empty if it gives no probabilities.
        after: of the ensemble as it is to be written down, all members asked.
    """

    members: Mapping[str, MemberReport]
    combined: Mapping[str, Combined]
    cascade: CascadeReport | None
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]


def judge(
    subject: Subject,
    fit: Fit,
    configured: Rule,
    predictions: Floats,
    y: Classes,
    *,
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> Report:
    """Judge a fit.

    Args:
        subject: the ensemble.
        fit: what was fitted.
        configured: the ensemble's rule as it is.
        predictions: by the old temperatures, of all rows [members, rows, classes].
        y: classes of all rows.
        rows: numbers of those that were fitted on, and of the held-out ones.
    """
    held = rows[1]
    old, new, truth = predictions[:, held], fit.predictions[:, held], y[held]
    before, after = configured.all(old), fit.rule.all(new)
    answers: dict[str, Array] = {"mean": old.mean(axis=0)}
    if configured.name != "mean":
        answers[f"{configured.name}, as configured"] = before
    answers |= {
        "mean, fitted temperatures": new.mean(axis=0),
        "weighted mean, fitted": np.average(new, axis=0, weights=fit.weights),
        "greedy selection": np.average(new, axis=0, weights=fit.selection),
    }
    if configured.name != "mean" and not fit.is_new_rule:
        answers[f"{configured.name}, fitted temperatures"] = after
    size = float(len(subject.members))
    combined = {name: _combined(one, truth, size) for name, one in answers.items()}
    cascade = None
    if fit.confidence is not None:
        outcomes = [_run(subject, fit, y, some) for some in rows]
        one = _combined(outcomes[1].answers, truth, outcomes[1].member_rows_per_row)
        combined[f"cascade of {fit.rule.name}"] = one
        whole = float((after.argmax(axis=1) == truth).mean())
        cascade = _cascade(fit.confidence, outcomes, one.accuracy, whole)
    members = _members(subject, fit, old, new, truth)
    return Report(members, combined, cascade, _bins(before, truth), _bins(after, truth))


def _members(
    subject: Subject, fit: Fit, old: Floats, new: Floats, y: Classes
) -> dict[str, MemberReport]:
    return {
        member.name: MemberReport(
            old_temperature=member.config.temperature,
            temperature=fit.temperatures[i],
            weight=fit.weights[i],
            selected=int(fit.counts[i]),
            before=quality(old[i], y),
            after=quality(new[i], y),
        )
        for i, member in enumerate(subject.members)
    }


def _run(subject: Subject, fit: Fit, y: Classes, rows: npt.NDArray[np.int64]) -> Outcome:
    stages = fit.rule.stages(fit.predictions[:, rows], y[rows], subject.stages)
    return run_cascade(stages, fit.confidence or ())


def _cascade(
    confidence: tuple[float, ...], outcomes: Sequence[Outcome], accuracy: float, whole: float
) -> CascadeReport:
    """The report of a cascade, of which outcomes are on fitting and on held-out rows."""
    fitting, held = outcomes
    leaving = np.bincount(held.stage, minlength=len(confidence) + 1) / len(held.stage)
    return CascadeReport(
        confidence=confidence,
        saved=held.saved,
        saved_fitting=fitting.saved,
        accuracy=accuracy,
        whole_accuracy=whole,
        leaving=tuple(map(float, leaving)),
    )


def _combined(answers: Array, y: Classes, member_rows: float) -> Combined:
    wide = answers.astype(np.float64)
    figures = quality(wide, y) if _are_probabilities(wide) else None
    return Combined(accuracy(wide, y), figures, member_rows)


def _bins(answers: Array, y: Classes) -> tuple[Bin, ...]:
    return tuple(reliability(answers, y)) if _are_probabilities(answers) else ()


def _are_probabilities(answers: Array) -> bool:
    return bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3))
