"""Combines the predictions of one ensemble: applies its rules, its scores and its thresholds.

Runs in the combiner. Predictions flow from the arena into the rules, answers and scores back. Only
the main output's rule is applied to all rows, the others where their outputs are wanted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from workers.combiner.predictions import Reader, Selection, member_predictions
from workers.combiner.rule_guard import RuleGuard, is_guarded
from workers.combiner.scores import EARLY_RULES, is_certain, score
from workers.rules import CombinationRule, RuleError, RuleFunction, Stack, load_rule
from workers.runtime.arena import Arena, Array
from workers.runtime.spec import EnsembleSpec, PausedRule, RuleSpec, TensorSpec

__all__ = ["AppliedRule", "EnsembleCombiner", "RuleFailed"]

#: Cached sets of members: requests name any, and early answers rest on any.
_MAX_SELECTIONS = 1024


class RuleFailed(Exception):
    """A rule, which is named, has raised an exception, which is the cause."""

    def __init__(self, rule: str, cause: Exception) -> None:
        super().__init__(str(cause))
        self.rule = rule


class AppliedRule:
    """One rule of an ensemble, and where its outputs go: those from number `first` on."""

    def __init__(self, arena: Arena, ensemble: EnsembleSpec, spec: RuleSpec, first: int) -> None:
        self._arena, self._ensemble, self._spec = arena, ensemble, spec
        places = range(first, first + len(spec.outputs))
        self._answers: list[Any] = [arena.answers(ensemble, place) for place in places]
        inputs = [ensemble.predictions[index] for index in spec.inputs]
        self._inputs = [one.tensor for one in inputs]
        self._varies = any(tensor.symbols for tensor in (*self._inputs, *spec.outputs))
        self._readers = [member_predictions(arena, one) for one in inputs]
        #: Why the rule can't be used, which fails only rows that need it; empty if it can.
        self.load_error = ""
        self._rule = self._load(arena, inputs[0].class_axis)
        self._chosen: dict[int, tuple[list[tuple[Reader, Selection]], RuleFunction | None]] = {}

    def _load(self, arena: Arena, class_axis: int) -> CombinationRule | None:
        """Return the rule, or None after an error."""
        names = [arena.spec.members[member] for member in self._ensemble.members]
        try:
            return load_rule(self._spec, names, class_axis)
        except RuleError as error:
            self.load_error = str(error)
            return None

    def close(self) -> None:
        """Release a meta-model's memory; the rule can't be applied afterwards."""
        if isinstance(self._rule, Stack):
            self._rule.close()

    def _choose(self, used: int) -> tuple[list[tuple[Reader, Selection]], RuleFunction | None]:
        """Return how the `used` members are read, and the rule for them if there is one.

        It is cached, since the same members recur.
        """
        found = self._chosen.get(used)
        if found is None:
            members = self._ensemble.members
            positions = [i for i, member in enumerate(members) if used >> member & 1]
            selections = [(reader, reader.select(positions)) for reader in self._readers]
            function = None if self._rule is None else self._rule.for_members(positions)
            if len(self._chosen) >= _MAX_SELECTIONS:
                self._chosen.clear()
            found = self._chosen[used] = selections, function
        return found

    def read(self, slots: slice, used: int) -> Array:
        """Return what the `used` members predict of the rule's first input, not to be modified."""
        ((reader, selection), *_), _ = self._choose(used)
        predictions = reader.read(selection, slots)
        if self._varies:
            (predictions,) = self._cut([predictions], self._inputs[:1], slots)
        return predictions

    def _cut(
        self, arrays: Sequence[Any], tensors: Sequence[TensorSpec], slots: slice
    ) -> list[Array]:
        """Return views of arrays [..., *stored shape], as large as rows of equal sizes are."""
        return [
            array[(..., *self._arena.inner(tensor, slots.start))] if tensor.symbols else array
            for array, tensor in zip(arrays, tensors, strict=True)
        ]

    def apply(self, slots: slice, used: int, guard: RuleGuard | None) -> None:
        """Write the answers of `slots` from the `used` members; raises RuleFailed."""
        try:
            selections, function = self._choose(used)
            if function is None:
                raise RuleError(self.load_error)
            predictions = [reader.read(selection, slots) for reader, selection in selections]
            answers = [answer[slots] for answer in self._answers]
            if self._varies:
                predictions = self._cut(predictions, self._inputs, slots)
                answers = self._cut(answers, self._spec.outputs, slots)
            if guard is None:
                function(predictions, answers)
            else:
                guard.run(function, predictions, answers)
        except Exception as error:
            raise RuleFailed(self._spec.rule, error) from error


class EnsembleCombiner:
    """Applies an ensemble's rules to rows of its arena."""

    def __init__(
        self,
        arena: Arena,
        spec: EnsembleSpec,
        guard: RuleGuard | None = None,
        paused: PausedRule | None = None,
    ) -> None:
        self.spec = spec
        self._arena = arena
        self._paused = paused
        self._main_answers: Any = arena.answers(spec)
        self._scores: Any = arena.scores(spec)
        self._class_axis, self._has_maps = spec.main.class_axis, bool(spec.score.shape)
        self._may_be_early = spec.rule in EARLY_RULES and len(spec.output.shape) == 1
        self._weights = np.array(spec.weights or (1.0,) * len(spec.members))
        rules, first = [], 0
        for rule in spec.rules:
            applied = AppliedRule(arena, spec, rule, first)
            rules.append((applied, guard if is_guarded(rule) else None))
            first += len(rule.outputs)
        self._rules = [rule for rule, _ in rules]
        self._main, self._guard = rules[0]
        self._others = rules[1:]

    @property
    def load_errors(self) -> list[str]:
        """Why some of its rules can't be used, with their names."""
        return [
            f"rule {spec.rule} of {self.spec.name} can't be used: {rule.load_error}"
            for spec, rule in zip(self.spec.rules, self._rules, strict=True)
            if rule.load_error
        ]

    def close(self) -> None:
        """Release what its rules hold; they can't be applied afterwards."""
        for rule in self._rules:
            rule.close()

    def combine(self, slots: slice, used: int) -> None:
        """Write the main output of `slots` from the `used` members; raises RuleFailed."""
        if self._guard is not None and self._paused is not None:
            self._check_pause(self._paused)
        self._main.apply(slots, used, self._guard)

    def combine_others(self, slots: slice, used: int) -> None:
        """Write what other rules yield, as `combine` does."""
        for rule, guard in self._others:
            if guard is not None and self._paused is not None:
                self._check_pause(self._paused)
            rule.apply(slots, used, guard)

    def _check_pause(self, paused: PausedRule) -> None:
        """Raise RuleFailed until the pause of the user's rules is over."""
        left_ns = paused.until_ns - time.monotonic_ns()
        if left_ns > 0:
            reason = RuleError(
                f"it has crashed the combiner {paused.crashes} times and is paused for "
                f"{left_ns / 1e9:.0f} s"
            )
            raise RuleFailed(next(one.rule for one in self.spec.rules if is_guarded(one)), reason)
        self._paused = None

    def score(self, slots: slice, used: int) -> None:
        """Write the uncertainty scores of `slots` over the `used` members."""
        predictions = self._main.read(slots, used)
        if self._has_maps:
            predictions = np.moveaxis(predictions, self._class_axis, -1)
        scores = self._scores[slots]
        if self.spec.score.symbols:
            scores = scores[(..., *self._arena.inner(self.spec.score, slots.start))]
        score(predictions, self.spec.scores, scores)

    def are_certain(self, slots: slice, present: int, missing: int) -> Array:
        """Return whether no missing member can change the best class of each row, bool [rows]."""
        if not self._may_be_early or not present:
            return np.zeros(slots.stop - slots.start, np.bool_)
        predictions = self._main.read(slots, present)
        missing_weight = float(self._weights_of(missing).sum())
        return is_certain(self.spec.rule, predictions, self._weights_of(present), missing_weight)

    def _weights_of(self, members: int) -> Array:
        return self._weights[[members >> member & 1 == 1 for member in self.spec.members]]

    def are_confident(self, slots: slice, stage: int) -> Array:
        """Return whether the answers of `slots` may leave the cascade, bool [rows]."""
        answers = self._main_answers[slots]
        return np.asarray(answers.max(axis=-1) >= self.spec.thresholds[stage - 1])
