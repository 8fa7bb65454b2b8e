"""Stacking: a trained meta-model has the members' predictions as its input.

Runs in the combiner, which loads the runtime only if an ensemble stacks. Predictions
[members, rows, *outputs] flow in, the model's own output flows out as the ensemble's.

Source: Wolpert, "Stacked Generalization" (Neural Networks 5, 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workers import backends
from workers.rules.errors import RuleError
from workers.runtime.spec import DeviceSpec, ModelSource

__all__ = ["Stack", "meta_inputs"]

Array = npt.NDArray[Any]


def meta_inputs(members: int, outputs: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a row that a meta-model may take: flat, or with a member each.

    Args:
        members: how many.
        outputs: the shape of one member's prediction of a row.
    """
    elements = int(np.prod(outputs, dtype=int))
    return (members * elements,), (members, *outputs)


class Stack:
    """A meta-model over all members of an ensemble, on one thread of the CPU.

    Raises:
        RuleError: if it can't be loaded.
    """

    def __init__(self, source: ModelSource, members: int) -> None:
        try:
            self._model = backends.load(source, DeviceSpec("cpu:0", "cpu", memory_bytes=0))
        except backends.ModelError as refusal:
            raise RuleError(str(refusal)) from None
        self._members = members

    def over(self, chosen: Sequence[int]) -> Callable[[Array, Array], None]:
        """See `workers.rules.Combination`; it needs all members."""
        if len(chosen) < self._members:
            raise RuleError(f"it needs all {self._members} members, there are {len(chosen)}")
        return self._apply

    def _apply(self, predictions: Array, out: Array) -> None:
        (wanted,) = self._model.signature.inputs
        rows = predictions.shape[1]
        by_row = np.ascontiguousarray(np.moveaxis(predictions, 0, 1), wanted.dtype)
        answer: Array = self._model.predict([by_row.reshape(rows, *wanted.shape)])
        if answer.shape != out.shape:
            raise RuleError(f"the meta-model answered {list(answer.shape)}, not {list(out.shape)}")
        if np.isnan(answer).any():
            raise RuleError("NaN in the meta-model's answer")
        out[...] = answer
