"""Combines the predictions of one ensemble: applies its rule, its scores and its thresholds.

Runs in the combiner. Predictions flow from the arena into the rule, answers and scores back.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from workers.combiner.predictions import Selection, member_predictions
from workers.combiner.rule_guard import RuleGuard
from workers.combiner.scores import EARLY_RULES, is_certain, score
from workers.rules import CombinationRule, RuleError, RuleFunction, load_rule
from workers.runtime.arena import Arena, Array
from workers.runtime.spec import EnsembleSpec, PausedRule

__all__ = ["EnsembleCombiner"]

#: Cached sets of members: requests name any, and early answers rest on any.
_MAX_SELECTIONS = 1024

_log = logging.getLogger(__name__)


class EnsembleCombiner:
    """Applies an ensemble's rule to rows of its arena."""

    def __init__(
        self,
        arena: Arena,
        spec: EnsembleSpec,
        guard: RuleGuard | None = None,
        paused: PausedRule | None = None,
    ) -> None:
        self.spec = spec
        self._guard, self._paused = guard, paused
        self._answers: Any = arena.answers(spec)
        self._scores = arena.scores
        self._members = member_predictions(arena, spec)
        self._weights = np.array(spec.weights or (1.0,) * len(spec.members))
        self._rule, self._load_error = self._load_rule(arena)
        self._selections: dict[int, tuple[Selection, RuleFunction | None]] = {}

    def _load_rule(self, arena: Arena) -> tuple[CombinationRule | None, str]:
        """Return the rule, or None and an error, which fails only this ensemble's rows."""
        try:
            names = [arena.spec.members[member] for member in self.spec.members]
            return load_rule(self.spec, names), ""
        except RuleError as error:
            _log.error("rule %s of %s can't be used: %s", self.spec.rule, self.spec.name, error)
            return None, str(error)

    def _select(self, used: int) -> tuple[Selection, RuleFunction | None]:
        """Return the selection of the `used` members, and the rule for them if there is one.

        It is cached, since the same members recur.
        """
        found = self._selections.get(used)
        if found is None:
            positions = [i for i, member in enumerate(self.spec.members) if used >> member & 1]
            selection, function = self._members.select(positions), None
            if self._rule is not None:
                function = self._rule.for_members(positions)
            if len(self._selections) >= _MAX_SELECTIONS:
                self._selections.clear()
            found = self._selections[used] = selection, function
        return found

    def combine(self, slots: slice, used: int) -> None:
        """Write the answers of `slots` from the `used` members; a rule may raise anything."""
        selection, function = self._select(used)
        if function is None:
            raise RuleError(self._load_error)
        predictions, answers = self._members.read(selection, slots), self._answers[slots]
        if self._guard is None:
            function(predictions, answers)
            return
        if self._paused is not None:
            self._check_pause(self._paused)
        self._guard.run(function, predictions, answers)

    def _check_pause(self, paused: PausedRule) -> None:
        """Raise RuleError until the rule's pause is over."""
        left_ns = paused.until_ns - time.monotonic_ns()
        if left_ns > 0:
            raise RuleError(
                f"it has crashed the combiner {paused.crashes} times and is paused for "
                f"{left_ns / 1e9:.0f} s"
            )
        self._paused = None

    def score(self, slots: slice, used: int) -> None:
        """Write the uncertainty scores of `slots` over the `used` members."""
        selection, _ = self._select(used)
        score(self._members.read(selection, slots), self.spec.scores, self._scores[slots])

    def are_certain(self, slots: slice, present: int, missing: int) -> Array:
        """Return whether no missing member can change the best class of each row, bool [rows]."""
        if self.spec.rule not in EARLY_RULES or not present:
            return np.zeros(slots.stop - slots.start, np.bool_)
        selection, _ = self._select(present)
        predictions = self._members.read(selection, slots)
        missing_weight = float(self._weights_of(missing).sum())
        return is_certain(self.spec.rule, predictions, self._weights_of(present), missing_weight)

    def _weights_of(self, members: int) -> Array:
        return self._weights[[members >> member & 1 == 1 for member in self.spec.members]]

    def are_confident(self, slots: slice, stage: int) -> Array:
        """Return whether the answers of `slots` may leave the cascade, bool [rows]."""
        return np.asarray(self._answers[slots].max(axis=-1) >= self.spec.thresholds[stage - 1])
