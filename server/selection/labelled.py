"""Labelled rows with the members' predictions of them: how good candidates are there.

Runs in the process of the command line; pure. Sets, weights and cascades flow in, answers and
qualities flow out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from server.calibration.cascade_thresholds import StageAnswers, run_cascade
from server.calibration.metrics import Array, Floats, Rows
from server.selection.points import Candidate
from server.selection.quality import Measure

__all__ = ["LabelledRows", "Sets"]

#: Whether each member is in a set, [sets, members].
Sets = npt.NDArray[np.bool_]

#: So many numbers are held at once.
_MOST_NUMBERS = 1 << 23


@dataclass(frozen=True)
class LabelledRows:
    """Predictions [members, rows, *shape], what is true of the rows, and a measure of quality."""

    members: tuple[str, ...]
    predictions: Floats
    y: Array
    measure: Measure

    @property
    def of_classes(self) -> bool:
        """Whether the answers are probabilities of classes."""
        return self.y.dtype.kind in "iu"

    def part(self, rows: Rows) -> LabelledRows:
        """Return some of the rows."""
        return replace(self, predictions=self.predictions[:, rows], y=self.y[rows])

    def losses(self, answers: Floats) -> Floats:
        """Qualities of several answers to the rows, the better the lower."""
        return -self.measure.gains(answers, self.y)

    def gains(self, weights: Floats | Sets) -> Floats:
        """Qualities of weighted means, the better the higher: weights [candidates, members]."""
        shares = weights / weights.sum(axis=1, keepdims=True)
        flat = self.predictions.reshape(len(self.members), -1)
        return self._gains(shares[some] @ flat for some in self._chunks(len(shares)))

    def gains_grown(self, total: Floats, size: int) -> Floats:
        """Qualities of a set of this size and each further member, [members].

        `total` is the sum of the set's predictions, [rows, *shape].
        """
        members = self._chunks(len(self.members))
        return self._gains((total + self.predictions[some]) / (size + 1) for some in members)

    def _gains(self, answers: Iterator[Floats]) -> Floats:
        shape = self.predictions.shape[1:]
        found = [self.measure.gains(one.reshape(-1, *shape), self.y) for one in answers]
        return np.concatenate(found)

    def _chunks(self, candidates: int) -> Iterator[slice]:
        step = max(1, _MOST_NUMBERS // self.predictions[0].size)
        return (slice(start, start + step) for start in range(0, candidates, step))

    def answers(self, candidate: Candidate) -> Floats:
        """Return what a candidate answers, [rows, *shape]."""
        if candidate.cascade is None:
            return self._mean(candidate, candidate.members)
        stages = self.stage_answers(candidate, candidate.cascade.stages)
        return run_cascade(stages, candidate.cascade.confidence).answers.astype(np.float64)

    def stage_answers(
        self, candidate: Candidate, stages: tuple[tuple[str, ...], ...]
    ) -> StageAnswers:
        """Return what a candidate of classes would answer after each stage, as the server does."""
        asked: list[str] = []
        answers = []
        for stage in stages:
            asked.extend(stage)
            answers.append(self._mean(candidate, asked).astype(np.float32))
        return StageAnswers(tuple(map(len, stages)), np.stack(answers), self.y)

    def _mean(self, candidate: Candidate, members: tuple[str, ...] | list[str]) -> Floats:
        weights = dict(zip(candidate.members, candidate.weights, strict=True))
        own = np.array([weights.get(name, 0.0) * (name in members) for name in self.members])
        used = np.flatnonzero(own)
        return np.tensordot(own[used] / own.sum(), self.predictions[used], 1)
