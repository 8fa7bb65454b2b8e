"""Loads the rule of an ensemble: a built-in one, a meta-model, or a user's function.

Runs in the combiner. An ensemble's spec flows in; what flows out applies the rule to predictions of
any of its members. Work that depends only on these members (their weights, their names) is done
once per set of them, not once per row. A meta-model's runtime is imported only if an ensemble
stacks.

Source for stacking: Wolpert, "Stacked Generalization" (Neural Networks 5, 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from workers import backends
from workers.rules.builtin import trimmed_mean
from workers.rules.catalogue import RULES, Array, RuleError, is_custom
from workers.rules.custom import CustomRule
from workers.runtime.spec import DeviceSpec, EnsembleSpec, ModelSource

__all__ = ["CombinationRule", "RuleFunction", "Stack", "load_rule", "meta_inputs"]

#: Writes the answers of rows: predictions [members, rows, *outputs] in, [rows, ...] out.
RuleFunction = Callable[[Array, Array], None]


class CombinationRule(Protocol):
    """The rule of an ensemble."""

    def for_members(self, positions: Sequence[int]) -> RuleFunction:
        """Return the rule for answers that rest on these members alone (ascending, at least one).

        Raises:
            RuleError: if the rule can't combine these members. The returned function raises any
                exception of the rule itself, and RuleError if the rule's result is invalid.
        """
        ...


def load_rule(spec: EnsembleSpec, members: Sequence[str]) -> CombinationRule:
    """Load the rule of an ensemble with members of these names, or raise RuleError."""
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

    def for_members(self, positions: Sequence[int]) -> RuleFunction:
        """See `CombinationRule`."""
        rule, weights = self._rule, self._weights[list(positions)]

        def apply(predictions: Array, out: Array) -> None:
            rule(predictions, weights, out)

        return apply


def meta_inputs(members: int, outputs: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a row that a meta-model may take: flat, or with an axis of members.

    `outputs` is the shape of one member's prediction of a row.
    """
    elements = int(np.prod(outputs, dtype=int))
    return (members * elements,), (members, *outputs)


class Stack:
    """Stacking: a meta-model over all members of an ensemble, on one thread of the CPU."""

    def __init__(self, source: ModelSource, members: int) -> None:
        try:
            self._model = backends.load(source, DeviceSpec("cpu:0", "cpu", memory_bytes=0))
        except backends.ModelError as refusal:
            raise RuleError(str(refusal)) from None
        self._members = members

    def for_members(self, positions: Sequence[int]) -> RuleFunction:
        """See `CombinationRule`; it needs all members."""
        if len(positions) < self._members:
            raise RuleError(f"it needs all {self._members} members, there are {len(positions)}")
        return self._apply

    def _apply(self, predictions: Array, out: Array) -> None:
        (wanted,) = self._model.signature.inputs
        rows = predictions.shape[1]
        by_row = np.ascontiguousarray(np.moveaxis(predictions, 0, 1), wanted.dtype)
        (answer,) = self._model.predict([by_row.reshape(rows, *wanted.shape)])
        if answer.shape != out.shape:
            raise RuleError(f"the meta-model answered {list(answer.shape)}, not {list(out.shape)}")
        if np.isnan(answer).any():
            raise RuleError("NaN in the meta-model's answer")
        out[...] = answer
