"""An ensemble's rule over members' predictions, by the code that the server runs.

Runs in the process of the command line; a user's own rule is imported there. Predictions of all
members flow in, answers that rest on all or some of them flow out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from server.calibration.cascades import Stages
from server.calibration.metrics import Classes, Floats
from server.calibration.subject import Subject
from server.errors import ConfigError
from workers.rules import RuleError, combination, is_custom
from workers.runtime.spec import EnsembleSpec, TensorSpec

__all__ = ["Rule"]


class Rule:
    """How an ensemble combines its members, by the code that the server runs.

    Args:
        subject: the ensemble.
        weights: instead of the configured rule, the weighted mean with these.
        directory: where the user's own rules are.
    """

    def __init__(self, subject: Subject, weights: Sequence[float] | None, directory: str) -> None:
        config = subject.config
        self.name = config.rule if weights is None else "weighted_mean"
        self.weights = tuple(weights) if weights is not None else config.weights
        self._names = [member.name for member in subject.members]
        spec = EnsembleSpec(
            name=subject.name,
            members=tuple(range(len(self._names))),
            rule=self.name,
            weights=self.weights or (),
            quorum=1,
            output=TensorSpec("output", "FP32", (subject.number_of_classes,)),
            trim=config.resolved_trim,
            directory=directory if is_custom(self.name) else "",
        )
        try:
            self._combination = combination(spec, self._names)
        except RuleError as error:
            raise ConfigError(f"ensembles.{subject.name}.rule: {error}") from None

    def over(self, predictions: Floats, members: Sequence[str]) -> npt.NDArray[np.float32]:
        """Answers that rest on some members, [rows, classes], in FP32 as the server has them.

        Args:
            predictions: of all members [members, rows, classes].
            members: names.

        Raises:
            ConfigError: if the rule fails.
        """
        chosen = sorted(self._names.index(name) for name in members)
        used = predictions[chosen].astype(np.float32)
        out = np.empty(used.shape[1:], np.float32)
        try:
            self._combination.over(chosen)(used, out)
        except Exception as error:
            raise ConfigError(f"rule {self.name} fails: {error}") from None
        return out

    def all(self, predictions: Floats) -> npt.NDArray[np.float32]:
        """Answers that rest on all members."""
        return self.over(predictions, self._names)

    def stages(self, predictions: Floats, y: Classes, stages: Sequence[Sequence[str]]) -> Stages:
        """What is answered after each stage of a cascade."""
        asked: list[str] = []
        answers = []
        for stage in stages:
            asked.extend(stage)
            answers.append(self.over(predictions, asked))
        return Stages(tuple(map(len, stages)), np.stack(answers), y)
