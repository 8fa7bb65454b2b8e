"""Evaluates an ensemble before and after it was fitted, on rows that were held out.

Runs in the process of the command line; pure. A fit and the rows flow in, an `Evaluation` flows
out, which the command prints as tables, as JSON and as a plot; and how well scores of uncertainty
detect rows from outside the training data. These scores are the server's own, by
`workers.combiner.scores`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ensembled_client.wire import CLASS_SCORES

from server.calibration.cascade_thresholds import run_cascade
from server.calibration.fitting import Fit
from server.calibration.metrics import (
    Array,
    ClassIndices,
    Floats,
    Metrics,
    ReliabilityBin,
    Rows,
    accuracy,
    auroc,
    measure,
    reliability,
)
from server.calibration.target import CalibrationTarget, EnsembleRule
from workers.combiner.scores import score

__all__ = [
    "CascadeEvaluation",
    "CombinedEvaluation",
    "Evaluation",
    "MemberEvaluation",
    "evaluate",
    "evaluate_detection",
]

_VOTE_SHARE = "vote_share"


@dataclass(frozen=True)
class MemberEvaluation:
    """A member: what was fitted, and its metrics with its old and its new temperature."""

    old_temperature: float
    temperature: float
    weight: float
    selected: int
    before: Metrics
    after: Metrics


@dataclass(frozen=True)
class CombinedEvaluation:
    """One way to combine the members.

    `quality` is None for a rule whose answers are no probabilities; `member_rows_per_row` members
    predict a row, on average.
    """

    accuracy: float
    quality: Metrics | None
    member_rows_per_row: float


@dataclass(frozen=True)
class CascadeEvaluation:
    """A cascade: the members' names by stage, and where the stages come from (`order`), for people.

    `confidence` is the thresholds after each stage but the last. `saved` is the share of the
    member-rows that need not be predicted, on held-out rows, `saved_fitting` on those it was fitted
    on. `accuracy` is on held-out rows, `whole_accuracy` that of the same rule over all members.
    `leaving` is the share of the rows that exit after each stage.
    """

    stages: tuple[tuple[str, ...], ...]
    order: str
    confidence: tuple[float, ...]
    saved: float
    saved_fitting: float
    accuracy: float
    whole_accuracy: float
    leaving: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """Everything, on held-out rows; `cascade` is None if there can be none.

    `reliability` is `before` of the ensemble as configured, `after` as it is to be written, all
    members asked; empty if it gives no probabilities.
    """

    members: dict[str, MemberEvaluation]
    combined: dict[str, CombinedEvaluation]
    cascade: CascadeEvaluation | None
    reliability: dict[str, list[ReliabilityBin]]


def evaluate(
    target: CalibrationTarget,
    fit: Fit,
    predictions: Floats,
    y: ClassIndices,
    *,
    rows: tuple[Rows, Rows],
) -> Evaluation:
    """Evaluate a fit beside the rule as configured.

    Predictions [members, rows, classes], with the old temperatures, and `y` [rows] are of all
    rows; `rows` has the numbers of those that were fitted on, and of the held-out ones.
    """
    held, configured = rows[1], EnsembleRule(target, None)
    old, new, truth = predictions[:, held], fit.predictions[:, held], y[held]
    before, after = configured.combine(old), fit.rule.combine(new)
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
    size = float(len(target.members))
    combined = {name: _combined(one, truth, size) for name, one in answers.items()}
    cascade = None
    if fit.confidence is not None:
        name = f"cascade of {fit.rule.name}"
        cascade, combined[name] = _cascade(target, fit, fit.confidence, y, rows=rows)
    members = {
        member.name: MemberEvaluation(
            old_temperature=member.output.config.temperature,
            temperature=fit.temperatures[i],
            weight=fit.weights[i],
            selected=int(fit.counts[i]),
            before=measure(old[i], truth),
            after=measure(new[i], truth),
        )
        for i, member in enumerate(target.members)
    }
    diagrams = {
        name: reliability(one.astype(np.float64), truth) if _are_probabilities(one) else []
        for name, one in (("before", before), ("after", after))
    }
    return Evaluation(members, combined, cascade, diagrams)


def _cascade(
    target: CalibrationTarget,
    fit: Fit,
    thresholds: tuple[float, ...],
    y: ClassIndices,
    *,
    rows: tuple[Rows, Rows],
) -> tuple[CascadeEvaluation, CombinedEvaluation]:
    answers = [
        fit.rule.combine_stages(fit.predictions[:, some], y[some], target.stages) for some in rows
    ]
    fitting, held = (run_cascade(stages, thresholds) for stages in answers)
    combined = _combined(held.answers, y[rows[1]], held.member_rows_per_row)
    leaving = np.bincount(held.stage, minlength=len(target.stages)) / len(held.stage)
    cascade = CascadeEvaluation(
        stages=target.stages,
        order=target.order,
        confidence=thresholds,
        saved=held.saved,
        saved_fitting=fitting.saved,
        accuracy=combined.accuracy,
        whole_accuracy=float(answers[1].right[-1].mean()),
        leaving=tuple(map(float, leaving)),
    )
    return cascade, combined


def _combined(answers: Array, y: ClassIndices, member_rows_per_row: float) -> CombinedEvaluation:
    wide = answers.astype(np.float64)
    metrics = measure(wide, y) if _are_probabilities(wide) else None
    return CombinedEvaluation(accuracy(wide, y), metrics, member_rows_per_row)


def _are_probabilities(answers: Array) -> bool:
    return bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3))


def evaluate_detection(inside: Floats, outside: Floats) -> dict[str, float]:
    """Return the AUROC of each uncertainty score for detecting outside rows.

    Both are probabilities [members, rows, classes].
    """
    within, without = _scores(inside), _scores(outside)
    return {name: auroc(within[name], without[name]) for name in within}


def _scores(p: Floats) -> dict[str, Floats]:
    """Scores [rows] that are high where there is doubt."""
    out = np.empty((p.shape[1], len(CLASS_SCORES)), np.float32)
    score(p, CLASS_SCORES, out)
    scores = {name: out[:, i].astype(np.float64) for i, name in enumerate(CLASS_SCORES)}
    share = scores.pop(_VOTE_SHARE)
    return {
        **scores,
        f"1 - {_VOTE_SHARE}": 1 - share,
        # Not a score of the server's: anyone can compute it from `output`.
        "1 - max probability": 1 - p.mean(axis=0).max(axis=1),
    }
