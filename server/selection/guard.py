"""Against overfitting: rows are split, and what was found is judged on rows it was not found on.

Runs in the process of the command line; pure. Rows flow in, splits, ratings and intervals flow out.
What is fitted to rows is rated by cross-fitting: each half of the rows is answered by what the
other half gave, so that a fit to noise is not taken for quality. The intervals are percentiles of
the bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993); all candidates are
judged on the same resamples, so that their differences are comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from server.calibration.cascade_thresholds import Flags
from server.calibration.dataset import split_rows
from server.calibration.metrics import Array, Floats, Rows
from server.errors import ConfigError
from server.selection.labelled import LabelledRows
from server.selection.points import Candidate

__all__ = ["CrossFit", "Fit", "Rated", "judge", "near_best", "split"]

_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)
_MIN_ROWS = 20
#: So many standard errors of a difference are no reason to pay more.
_CLOSE = 0.5

#: Returns None if nothing fits the rows.
Fit = Callable[[LabelledRows], Candidate | None]


@dataclass(frozen=True)
class Rated:
    """A candidate, and its quality as a gain where it was not fitted.

    `halves` are what either half of the rows gave; the candidate itself if nothing was fitted.
    """

    candidate: Candidate
    gain: float
    halves: tuple[Candidate, Candidate]


class CrossFit:
    """Fits candidates to rows, and answers each half by what was fitted to the other."""

    def __init__(self, rows: LabelledRows, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(rows.y))
        self.rows = rows
        self._halves = [np.sort(order[i::2]) for i in range(2)]
        self._parts = [rows.part(half) for half in self._halves]

    def rate(self, fit: Fit) -> Rated | None:
        """Return what a fit gives, None if it gives nothing."""
        candidate = fit(self.rows)
        first, second = map(fit, self._parts)
        if candidate is None or first is None or second is None:
            return None
        return self.rated(candidate, (first, second))

    def rated(self, candidate: Candidate, halves: tuple[Candidate, Candidate]) -> Rated:
        """Rate a candidate of which either half gave something."""
        answers = self.answers(halves)
        return Rated(candidate, -float(self.rows.losses(answers[np.newaxis])[0]), halves)

    def answers(self, halves: tuple[Candidate, Candidate]) -> Floats:
        """Return the answers to all rows, [rows, *shape]."""
        answers = np.empty(self.rows.predictions.shape[1:])
        for i in range(2):
            answers[self._halves[1 - i]] = self._parts[1 - i].answers(halves[i])
        return answers


def split(y: Array, of_classes: bool, holdout: float, seed: int) -> tuple[Rows, Rows]:
    """Split rows into those to search on and a share to judge on, of each class alike.

    Raises:
        ConfigError: if either would be fewer than 20 rows, or of one class.
    """
    if of_classes:
        return split_rows(y, holdout, seed)
    order, held = np.random.default_rng(seed).permutation(len(y)), round(len(y) * holdout)
    if min(held, len(y) - held) < _MIN_ROWS:
        raise ConfigError(
            f"--data: of {len(y)} rows {held} are held out: give at least {_MIN_ROWS} and as many"
        )
    return np.sort(order[held:]), np.sort(order[:held])


def judge(rows: LabelledRows, candidates: Sequence[Candidate], seed: int) -> tuple[Floats, Floats]:
    """Return the qualities of candidates [candidates], and their intervals [candidates, 2]."""
    number = len(rows.y)
    resamples = np.random.default_rng(seed).integers(number, size=(_RESAMPLES, number))
    qualities, intervals = [], []
    for one in candidates:
        answers = rows.answers(one)[np.newaxis]
        qualities.append(rows.measure.of_many(answers, rows.y)[0])
        resampled = rows.measure.resampled(answers, rows.y, resamples)[0]
        intervals.append(np.percentile(resampled, _INTERVAL))
    return np.array(qualities), np.array(intervals)


def near_best(rows: LabelledRows, answers: Sequence[Floats], seed: int) -> Flags:
    """Return which answers, each [rows, *shape], are hardly worse than the best ones.

    They are behind by at most half a standard error of the difference, of the same resamples for
    all. (For the better part of one standard error the best ones are ahead by luck: they were
    chosen because they are the best. See the "1 SE rule" of Breiman et al., "Classification and
    Regression Trees", 1984.)
    """
    number = len(rows.y)
    resamples = np.random.default_rng(seed).integers(number, size=(_RESAMPLES, number))
    gains = np.array([-rows.losses(one[np.newaxis])[0] for one in answers])
    sign, best = rows.measure.sign, int(gains.argmax())
    resampled = np.stack(
        [sign * rows.measure.resampled(one[np.newaxis], rows.y, resamples)[0] for one in answers]
    )
    errors = (resampled[best] - resampled).std(axis=1)
    return np.asarray(gains[best] - gains <= _CLOSE * errors)
