"""How good answers are: built-in measures, and those of the user.

Runs in the process of the command line; pure, but for a user's function. Answers and what is true
flow in, numbers flow out. Answers are float64 [rows, classes] with classes y [rows], or numbers
[rows, *shape] with y of the same shape. The built-in measures of classes are those of
`server.calibration.metrics`; `rmse` is the root of the mean squared error of all numbers.

A user's measure is ``package.module:function``, called with answers and y; it returns a number, the
higher the better unless the function has an attribute ``higher_is_better = False``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from server.calibration.metrics import LEAST, Array, Floats, Rows
from server.errors import ConfigError, did_you_mean
from workers.runtime.importing import ImportFailed, import_function

__all__ = ["MEASURES", "Measure", "find_measure"]

#: By how many rows the worst tie score (2, of the Brier score) lowers a gain, halved.
_TIE = 0.25

#: Answers [..., rows, *shape] and y to what each row contributes, [..., rows].
_RowScores = Callable[[Floats, Array], Floats]


@dataclass(frozen=True)
class Measure:
    """A measure of quality.

    It is the mean over rows of `row_scores`, or the root of that; or what `function` returns. The
    mean of `tie_scores`, the better the lower, decides between equals.
    `of_classes` is whether answers are probabilities of classes, None if they may be anything.
    """

    name: str
    higher_is_better: bool
    of_classes: bool | None = None
    row_scores: _RowScores | None = None
    is_root: bool = False
    tie_scores: _RowScores | None = None
    function: Callable[[Floats, Array], float] | None = None

    def __call__(self, answers: Floats, y: Array) -> float:
        """Return the quality of answers.

        Raises:
            ConfigError: if a user's function fails, or returns no finite number.
        """
        return float(self.of_many(answers[np.newaxis], y)[0])

    def of_many(self, answers: Floats, y: Array) -> Floats:
        """Return the qualities of several answers to the same rows, [answers]; else as a call."""
        if self.row_scores is not None:
            return self._final(self.row_scores(answers, y).mean(axis=-1))
        return np.array([self._call(one, y) for one in answers])

    def gains(self, answers: Floats, y: Array) -> Floats:
        """Return the qualities of several answers, better the higher; equals differ by the ties."""
        gains = self.sign * self.of_many(answers, y)
        if self.tie_scores is not None:
            gains = gains - _TIE / len(y) * self.tie_scores(answers, y).mean(axis=-1)
        return gains

    def resampled(self, answers: Floats, y: Array, resamples: Rows) -> Floats:
        """Return the qualities over resampled rows.

        Answers [answers, rows, *shape] and row numbers [resamples, rows] flow in, qualities
        [answers, resamples] flow out.
        """
        if self.row_scores is not None:
            scores = self.row_scores(answers, y)
            return self._final(np.stack([scores[:, rows].mean(axis=1) for rows in resamples], 1))
        qualities = [self.of_many(answers[:, rows], y[rows]) for rows in resamples]
        return np.stack(qualities, axis=1)

    @property
    def sign(self) -> float:
        """1 if a higher quality is better, else -1."""
        return 1.0 if self.higher_is_better else -1.0

    def _final(self, means: Floats) -> Floats:
        return np.asarray(np.sqrt(means) if self.is_root else means)

    def _call(self, answers: Floats, y: Array) -> float:
        assert self.function is not None
        try:
            quality = float(self.function(answers, y))
        except Exception as error:
            raise ConfigError(
                f"--measure {self.name}: it fails: {type(error).__name__}: {error}"
            ) from error
        if not math.isfinite(quality):
            raise ConfigError(f"--measure {self.name}: it returned {quality}, not a finite number")
        return quality


def _accuracy(answers: Floats, y: Array) -> Floats:
    return np.asarray(answers.argmax(axis=-1) == y, np.float64)


def _log_loss(answers: Floats, y: Array) -> Floats:
    return np.asarray(-np.log(np.maximum(answers[..., np.arange(len(y)), y], LEAST)))


def _brier(answers: Floats, y: Array) -> Floats:
    # sum_c (p_c - 1[c = y])^2 = sum_c p_c^2 - 2 p_y + 1
    squares = np.einsum("...c,...c->...", answers, answers)
    return np.asarray(squares - 2 * answers[..., np.arange(len(y)), y] + 1)


def _squared_error(answers: Floats, y: Array) -> Floats:
    squares = (answers - y) ** 2
    return np.asarray(squares.mean(axis=tuple(range(-y.ndim + 1, 0))) if y.ndim > 1 else squares)


#: The built-in measures by name.
MEASURES = {
    one.name: one
    for one in (
        # On few rows many ensembles are equally accurate; the Brier score tells them apart.
        Measure("accuracy", True, True, _accuracy, tie_scores=_brier),
        Measure("log_loss", False, True, _log_loss),
        Measure("brier", False, True, _brier),
        Measure("rmse", False, False, _squared_error, is_root=True),
    )
}


def find_measure(name: str, directory: str = "") -> Measure:
    """Return the measure of that name; a user's module is looked for in `directory`, too.

    Raises:
        ConfigError: if there is none.
    """
    if name in MEASURES:
        return MEASURES[name]
    if ":" not in name:
        raise ConfigError(
            f"--measure: there is no {name!r}{did_you_mean(name, MEASURES)}: it is "
            f"{', '.join(MEASURES)}, or package.module:function"
        )
    try:
        function = import_function(name, directory)
    except ImportFailed as failure:
        raise ConfigError(f"--measure {name}: {failure}") from failure
    return Measure(name, getattr(function, "higher_is_better", True), function=function)
