"""Fits conformal sets and intervals, and measures how often they hold the truth.

Runs in the process of the command line; pure. Answers and truths of rows flow in that nothing else
was fitted on; a `ConformalSpec` flows out, for the configuration, with its evaluation: rows are
split at random many times, one part gives the scores, and the truths of the other are looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.calibration.metrics import Array, ClassIndices, Floats, Rows
from server.inference.conformal import (
    SET_METHODS,
    ConformalSpec,
    IntervalMethod,
    SetMethod,
    TooFewRows,
    class_scores,
    interval,
    interval_scores,
    set_scores,
    threshold_rank,
)

__all__ = [
    "SPLITS",
    "ConformalOptions",
    "Coverage",
    "IntervalData",
    "SetCalibration",
    "calibrate_sets",
    "evaluate_intervals",
    "evaluate_sets",
    "fit_intervals",
    "fit_sets",
    "measured_coverage",
    "tune_raps",
]

#: Random splits of an evaluation.
SPLITS = 20
#: More scores than these are thinned: the threshold is then at most one in a thousand too large.
_MOST_SCORES = 1000
#: As in the paper of raps.
_PENALTIES = (0.001, 0.01, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class ConformalOptions:
    """What is to be fitted, see `ensembled calibrate`; a `coverage` of None is the ensemble's own.

    `output` is the file to write, None for none; `method` is for classes.
    """

    output: Path | None = None
    method: SetMethod = "lac"
    coverage: float | None = None


@dataclass(frozen=True)
class Coverage:
    """How often sets or intervals hold the truth, and how large they are; means over the splits.

    `wanted` is the coverage asked for; `size` the number of classes, or the width; `deviation` the
    standard deviation of the coverage between splits. Rows are those of one split.
    """

    method: str
    wanted: float
    coverage: float
    deviation: float
    size: float
    calibration_rows: int
    held_out_rows: int


@dataclass(frozen=True)
class IntervalData:
    """Answers and truths: y [rows, elements], bounds [rows, elements, 2], scale like y or None."""

    method: IntervalMethod
    y: Floats
    bounds: Floats
    scale: Floats | None = None


@dataclass(frozen=True)
class SetCalibration:
    """Prediction sets: an evaluation of each method, and what was fitted, by method."""

    sets: list[Coverage]
    specs: dict[SetMethod, ConformalSpec]
    notes: list[str]


def calibrate_sets(
    answers: Array, y: ClassIndices, *, rows: tuple[Rows, Rows], coverage: float, seed: int
) -> SetCalibration:
    """Fit prediction sets by all methods to held-out rows, and evaluate them.

    Args:
        answers: of all rows, [rows, classes].
        y: their classes, [rows].
        rows: numbers of those that something was fitted to, which tune raps, and of the held-out.
        coverage: that is evaluated.
        seed: of the random halves.
    """
    tuning, held = rows
    notes: list[str] = []
    sums = answers.sum(axis=1)
    methods = SET_METHODS if (answers >= 0).all() and np.allclose(sums, 1, atol=1e-3) else ("lac",)
    if len(methods) == 1:
        notes.append("the answers are no probabilities: prediction sets are by lac alone")
    try:
        penalty, free_rank = tune_raps(answers[tuning], y[tuning], coverage)
    except TooFewRows:
        methods, penalty, free_rank = tuple(one for one in methods if one != "raps"), 0.0, 0
    specs = {
        one: fit_sets(one, answers[held], y[held], penalty=penalty, free_rank=free_rank)
        for one in methods
    }
    try:
        sets = evaluate_sets(list(specs.values()), answers[held], y[held], coverage, seed)
    except TooFewRows as error:
        notes.append(f"no evaluation of prediction sets, with half of the held-out rows: {error}")
        sets = []
    return SetCalibration(sets, specs, notes)


def fit_sets(
    method: SetMethod, answers: Array, y: ClassIndices, *, penalty: float = 0.0, free_rank: int = 0
) -> ConformalSpec:
    """Fit prediction sets to answers [rows, classes] and the true classes [rows]."""
    scores = class_scores(answers, method, penalty=penalty, free_rank=free_rank)
    ranks, kept = _thinned(scores[np.arange(len(y)), y][:, np.newaxis])
    return ConformalSpec(method, len(y), ranks, kept, penalty, free_rank)


def fit_intervals(data: IntervalData) -> ConformalSpec:
    """Fit intervals, for each element of the output by itself."""
    ranks, kept = _thinned(interval_scores(data.y, data.bounds, data.scale))
    return ConformalSpec(data.method, len(data.y), ranks, kept)


def _thinned(scores: Floats) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]:
    """Return at most `_MOST_SCORES` ranks, and the scores [rows, elements] of these ranks."""
    rows = len(scores)
    ranks = np.unique(np.linspace(1, rows, min(rows, _MOST_SCORES)).round().astype(int))
    ordered = np.sort(scores, axis=0)[ranks - 1]
    return tuple(ranks.tolist()), tuple(map(tuple, ordered.T.tolist()))


def tune_raps(answers: Array, y: ClassIndices, coverage: float) -> tuple[float, int]:
    """Return the penalty of raps that gives the smallest sets, and the ranks that are free of it.

    These are as many as hold the truth at this coverage (Angelopoulos et al., appendix E). The rows
    must be others than those that the sets are fitted to.
    """
    order = np.argsort(-answers, axis=1, kind="stable")
    ranks = np.sort((order == y[:, np.newaxis]).argmax(axis=1) + 1)
    free = int(ranks[min(len(y), threshold_rank(coverage, len(y))) - 1])

    def size(penalty: float) -> float:
        scores = class_scores(answers, "raps", penalty=penalty, free_rank=free)
        true = np.sort(scores[np.arange(len(y)), y])
        return float((scores <= true[threshold_rank(coverage, len(y)) - 1]).sum(axis=1).mean())

    return min(_PENALTIES, key=size), free


def evaluate_sets(
    specs: Sequence[ConformalSpec], answers: Array, y: ClassIndices, coverage: float, seed: int
) -> list[Coverage]:
    """Evaluate prediction sets by methods like these (their own thresholds are not used).

    Answers [rows, classes] and y [rows] are split at random into halves, `SPLITS` times.

    Raises:
        TooFewRows: if half of the rows are too few for this coverage.
    """
    found = []
    for spec in specs:
        scores = set_scores(spec, answers)
        true = scores[np.arange(len(y)), y][:, np.newaxis]
        sizes = [
            (scores[held] <= limit).sum(axis=1).mean()
            for held, limit in _splits(true, coverage, seed)
        ]
        found.append(_coverage(spec.method, true, sizes, coverage, seed))
    return found


def evaluate_intervals(data: IntervalData, coverage: float, seed: int) -> Coverage:
    """Evaluate intervals on random halves, as `evaluate_sets`; a mean over the output's elements.

    Raises:
        TooFewRows: if half of the rows are too few for this coverage.
    """
    scores = interval_scores(data.y, data.bounds, data.scale)
    widths = [
        np.diff(
            interval(data.bounds[held], limit, None if data.scale is None else data.scale[held])
        )
        for held, limit in _splits(scores, coverage, seed)
    ]
    return _coverage(data.method, scores, [one.mean() for one in widths], coverage, seed)


def measured_coverage(method: str, y: Floats, bounds: Floats, wanted: float) -> Coverage:
    """Return the coverage of intervals [rows, elements, 2] that need no calibration rows."""
    inside = (bounds[..., 0] <= y) & (y <= bounds[..., 1])
    width = float(np.diff(bounds).mean())
    return Coverage(method, wanted, float(inside.mean()), 0.0, width, 0, len(y))


def _splits(scores: Floats, coverage: float, seed: int) -> Iterator[tuple[Rows, Floats]]:
    """Split rows `SPLITS` times; yield the held-out ones, and the threshold of the others' scores.

    Scores are [rows, elements], thresholds [elements].
    """
    half = len(scores) // 2
    rank = threshold_rank(coverage, half)
    random = np.random.default_rng(seed)
    for _ in range(SPLITS):
        order = random.permutation(len(scores))
        yield order[half:], np.sort(scores[order[:half]], axis=0)[rank - 1]


def _coverage(
    method: str, scores: Floats, sizes: Sequence[float], wanted: float, seed: int
) -> Coverage:
    """Summarise the splits of truths with these scores, and of sets or intervals of these sizes."""
    shares = [(scores[held] <= limit).mean() for held, limit in _splits(scores, wanted, seed)]
    half = len(scores) // 2
    return Coverage(
        method=method,
        wanted=wanted,
        coverage=float(np.mean(shares)),
        deviation=float(np.std(shares)),
        size=float(np.mean(sizes)),
        calibration_rows=half,
        held_out_rows=len(scores) - half,
    )
