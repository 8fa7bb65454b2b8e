"""Loads a rule of an ensemble: a built-in one, a meta-model, or a user's function.

Runs in the combiner. A rule's spec flows in; what flows out applies the rule to predictions of
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
from workers.rules.catalogue import JOINT_RULES, RULES, Array, RuleError, is_custom
from workers.rules.custom import CustomRule
from workers.runtime.spec import DeviceSpec, ModelSource, RuleSpec

__all__ = ["CombinationRule", "RuleFunction", "Stack", "load_rule", "meta_inputs"]

#: Writes the answers of rows: per input of the rule its predictions [members, rows, *outputs] flow
#: in, per output of the rule its answers [rows, ...] flow out.
RuleFunction = Callable[[Sequence[Array], Sequence[Array]], None]


class CombinationRule(Protocol):
    """A rule of an ensemble."""

    def for_members(self, positions: Sequence[int]) -> RuleFunction:
        """Return the rule for answers that rest on these members alone (ascending, at least one).

        Raises:
            RuleError: if the rule can't combine these members. The returned function raises any
                exception of the rule itself, and RuleError if the rule's result is invalid.
        """
        ...


def load_rule(spec: RuleSpec, members: Sequence[str], class_axis: int = -1) -> CombinationRule:
    """Load a rule of an ensemble with members of these names, or raise RuleError.

    `class_axis` is that of the predictions, counted from the end.
    """
    weights = np.array(spec.weights or (1.0,) * len(members))
    if spec.meta is not None:
        return Stack(spec.meta, len(members))
    if is_custom(spec.rule):
        return CustomRule(spec, members, weights)
    return _BuiltIn(spec, weights, class_axis)


class _BuiltIn:
    """A rule of `RULES` or `JOINT_RULES`."""

    def __init__(self, spec: RuleSpec, weights: Array, class_axis: int) -> None:
        is_joint = spec.rule in JOINT_RULES
        self._rule = (JOINT_RULES if is_joint else RULES)[spec.rule]
        if spec.options:
            self._rule = partial(self._rule, **spec.options)
        self._is_joint = is_joint
        self._weights = weights
        self._class_axis = class_axis

    def for_members(self, positions: Sequence[int]) -> RuleFunction:
        """See `CombinationRule`."""
        rule, weights, axis = self._rule, self._weights[list(positions)], self._class_axis

        def apply(predictions: Sequence[Array], answers: Sequence[Array]) -> None:
            rule(predictions[0], weights, answers[0])

        def apply_to_maps(predictions: Sequence[Array], answers: Sequence[Array]) -> None:
            # Votes and shares are over the last axis.
            moved = np.moveaxis(predictions[0], axis, -1)
            rule(moved, weights, np.moveaxis(answers[0], axis, -1))

        def apply_jointly(predictions: Sequence[Array], answers: Sequence[Array]) -> None:
            rule(predictions, weights, answers)

        if self._is_joint:
            return apply_jointly
        return apply if axis == -1 else apply_to_maps


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

    def close(self) -> None:
        """Release the meta-model's memory."""
        self._model.close()

    def for_members(self, positions: Sequence[int]) -> RuleFunction:
        """See `CombinationRule`; it needs all members."""
        if len(positions) < self._members:
            raise RuleError(f"it needs all {self._members} members, there are {len(positions)}")
        return self._apply

    def _apply(self, inputs: Sequence[Array], answers: Sequence[Array]) -> None:
        (predictions,), (out,) = inputs, answers
        (wanted,) = self._model.signature.inputs
        rows = predictions.shape[1]
        by_row = np.ascontiguousarray(np.moveaxis(predictions, 0, 1), wanted.dtype)
        (answer,) = self._model.predict([by_row.reshape(rows, *wanted.shape)])
        if answer.shape != out.shape:
            raise RuleError(f"the meta-model answered {list(answer.shape)}, not {list(out.shape)}")
        if np.isnan(answer).any():
            raise RuleError("NaN in the meta-model's answer")
        out[...] = answer
