"""Against overfitting: rows are split, and what was found is judged on rows it was not found on.

Runs in the process of the command line; pure. Rows flow in, splits and intervals flow out. The
intervals are percentiles of the bootstrap (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993); all points are judged on the same resamples, so that their differences are
comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.calibration.dataset import split_rows
from server.calibration.metrics import Array, Floats, Rows
from server.errors import ConfigError
from server.selection.labelled import LabelledRows
from server.selection.points import Candidate

__all__ = ["judge", "split"]

_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)
_MIN_ROWS = 20


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
