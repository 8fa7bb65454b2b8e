"""From an ensemble's spec to what applies its rule to any of its members.

Runs in the combiner. What depends on the members that an answer rests on alone (their weights,
their names) is prepared once per set of them, not once per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from workers.rules.averages import trimmed_mean
from workers.rules.catalogue import RULES, Array, is_custom
from workers.rules.custom import CustomRule
from workers.rules.stacking import Stack
from workers.runtime.spec import EnsembleSpec

__all__ = ["Applied", "Combination", "combination"]

#: Writes the answers of rows: predictions [members, rows, *outputs] in, [rows, ...] out.
Applied = Callable[[Array, Array], None]


class Combination(Protocol):
    """An ensemble's rule."""

    def over(self, chosen: Sequence[int]) -> Applied:
        """The rule for answers that rest on these members alone.

        Args:
            chosen: positions among the ensemble's members, ascending, at least one.

        Raises:
            RuleError: if the rule can't do with these members. What is returned raises whatever
                the rule does, RuleError if its answer is no answer.
        """
        ...


def combination(spec: EnsembleSpec, members: Sequence[str]) -> Combination:
    """Make an ensemble's rule: import a user's own, load a meta-model.

    Args:
        spec: of the ensemble.
        members: names of its members, in its order.

    Raises:
        RuleError: if that fails.
    """
    weights = np.array(spec.weights or (1.0,) * len(members))
    if spec.meta is not None:
        return Stack(spec.meta, len(members))
    if is_custom(spec.rule):
        return CustomRule(spec.rule, spec.directory, members, weights)
    return _BuiltIn(spec, weights)


class _BuiltIn:
    """A rule of `RULES`."""

    def __init__(self, spec: EnsembleSpec, weights: Array) -> None:
        self._rule = RULES[spec.rule]
        if spec.rule == "trimmed_mean":
            self._rule = partial(trimmed_mean, trim=spec.trim)
        self._weights = weights

    def over(self, chosen: Sequence[int]) -> Applied:
        """See `Combination`."""
        rule, weights = self._rule, self._weights[list(chosen)]

        def apply(predictions: Array, out: Array) -> None:
            rule(predictions, weights, out)

        return apply
