"""An ensemble over its arena: its rule, its scores, and how sure its answers are.

Runs in the combiner. Predictions flow from the arena into the rule, answers and scores back.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from workers.combiner.certainty import EARLY_RULES, is_certain
from workers.combiner.predictions import Where, predictions_of
from workers.combiner.rule_guard import RuleGuard
from workers.combiner.scores import score
from workers.rules import Applied, Combination, RuleError, combination
from workers.runtime.arena import Arena, Array
from workers.runtime.spec import EnsembleSpec, PausedRule

__all__ = ["CombinedEnsemble"]

#: Sets of members that are kept: requests name any, and early answers rest on any.
_MAX_SELECTIONS = 1024

_log = logging.getLogger(__name__)


class CombinedEnsemble:
    """An ensemble's rule, ready to be applied to rows of its arena."""

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
        self._members = predictions_of(arena, spec)
        self._weights = np.array(spec.weights or (1.0,) * len(spec.members))
        self._rule, self._broken = self._make_rule(arena)
        self._selections: dict[int, tuple[Where, Applied | None]] = {}

    def _make_rule(self, arena: Arena) -> tuple[Combination | None, str]:
        """The rule; or None and why not, which fails this ensemble's rows and no others."""
        try:
            names = [arena.spec.members[member] for member in self.spec.members]
            return combination(self.spec, names), ""
        except RuleError as error:
            _log.error("rule %s of %s can't be used: %s", self.spec.rule, self.spec.name, error)
            return None, str(error)

    def _select(self, used: int) -> tuple[Where, Applied | None]:
        """Where the `used` members' predictions are, and the rule for them if it can do with them.

        It is found once: these members come again.
        """
        selection = self._selections.get(used)
        if selection is None:
            chosen = [i for i, member in enumerate(self.spec.members) if used >> member & 1]
            where, applied = self._members.where(chosen), None
            if self._rule is not None:
                applied = self._rule.over(chosen)
            if len(self._selections) >= _MAX_SELECTIONS:
                self._selections.clear()
            selection = self._selections[used] = where, applied
        return selection

    def combine(self, slots: slice, used: int) -> None:
        """Write the answers of `slots` from the predictions of the `used` members.

        Raises:
            RuleError: if the rule failed; others may come out of it as well.
        """
        where, applied = self._select(used)
        if applied is None:
            raise RuleError(self._broken)
        predictions, answers = self._members.take(where, slots), self._answers[slots]
        if self._guard is None:
            applied(predictions, answers)
            return
        if self._paused is not None:
            self._wait_out(self._paused)
        with self._guard:
            applied(predictions, answers)

    def _wait_out(self, paused: PausedRule) -> None:
        """Refuse a rule that is to be left alone, as long as that is so.

        Raises:
            RuleError: until then.
        """
        left_ns = paused.until_ns - time.monotonic_ns()
        if left_ns > 0:
            raise RuleError(
                f"it has ended the combiner {paused.deaths} times and is left alone for "
                f"{left_ns / 1e9:.0f} s"
            )
        self._paused = None

    def score(self, slots: slice, used: int) -> None:
        """Write how much the `used` members agree on `slots`."""
        where, _ = self._select(used)
        score(self._members.take(where, slots), self.spec.scores, self._scores[slots])

    def are_certain(self, slots: slice, present: int, missing: int) -> Array:
        """Whether no missing member can, or could have, changed the best class, bool [rows]."""
        if self.spec.rule not in EARLY_RULES or not present:
            return np.zeros(slots.stop - slots.start, np.bool_)
        where, _ = self._select(present)
        predictions = self._members.take(where, slots)
        missing_weight = float(self._weights_of(missing).sum())
        return is_certain(self.spec.rule, predictions, self._weights_of(present), missing_weight)

    def _weights_of(self, members: int) -> Array:
        return self._weights[[members >> member & 1 == 1 for member in self.spec.members]]

    def are_sure(self, slots: slice, stage: int) -> Array:
        """Whether the answers of `slots` are sure enough to leave a cascade, bool [rows]."""
        return np.asarray(self._answers[slots].max(axis=-1) >= self.spec.thresholds[stage - 1])
