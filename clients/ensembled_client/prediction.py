"""Predictions as callers get them, made of decoded responses. Pure; in the caller's process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Prediction", "Timing"]


@dataclass(frozen=True)
class Timing:
    """Where the time of a prediction went, in seconds, as the client sees it.

    ``float(timing)`` is `total_s`.

    Attributes:
        total_s: from the call to the prediction, all of it.
        encode_s: of it, to make tensors from what the caller gave (reading files, converting).
        exchange_s: of it, from the first byte sent to the last answer decoded, with the pauses
            between tries, if there were any.
        pieces: how many requests the rows were split into.
        tries: how many requests were sent, more than `pieces` if some were tried again.
    """

    total_s: float
    encode_s: float = 0.0
    exchange_s: float = 0.0
    pieces: int = 1
    tries: int = 1

    def __float__(self) -> float:
        """Return `total_s`."""
        return self.total_s


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The combined answer of an ensemble. NumPy's functions take it as its `values`.

    Attributes:
        values: [n, *outputs], a row per row of the input.
        members: the members that contributed to all rows, in the ensemble's order.
        degraded: whether the answer rests on fewer members than were asked for.
        timing: where the time went.
        uncertainty: if asked for, scores by their name, each [n], float32. "entropy" (nats, of the
            mean of the members' probabilities: all doubt), "expected_entropy" (the mean of the
            members' own: doubt in the data), "mutual_information" (the difference: what the
            members disagree about), "variance", "vote_share" (the share of the members that name
            the most voted class), "disagreement" (the share of pairs of members that name
            different ones). An ensemble of values, not classes, has "variance" only.
        member_values: if asked for, each member's own prediction by its name, like `values`;
            NaN in rows to which it did not contribute.
        member_mask: if asked for, bool [n, members]: who contributed to which row. Its columns
            are the members of the ensemble in its order, the keys of `member_values`.
        class_names: the model's labels, one per class; empty if it has none.
    """

    values: npt.NDArray[Any]
    members: tuple[str, ...]
    degraded: bool
    timing: Timing
    uncertainty: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    member_values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    member_mask: npt.NDArray[np.bool_] | None = None
    class_names: tuple[str, ...] = ()

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """The label of each row's best class; None if the model has no labels."""
        if self.values.ndim != 2 or len(self.class_names) != self.values.shape[1]:
            return None
        return tuple(self.class_names[index] for index in self.values.argmax(axis=1))

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the best classes of each row.

        Args:
            k: how many at most, 1 or more.

        Returns:
            For each row (label, value), best first; the class's index where it has no label.

        Raises:
            ValueError: if the values are not [n, classes], or `k` is below 1.
        """
        if self.values.ndim != 2:
            raise ValueError(f"values of shape {list(self.values.shape)} are not of classes")
        if k < 1:
            raise ValueError(f"k is 1 or more, not {k}")
        names: Any = self.class_names
        if len(names) != self.values.shape[1]:
            names = [str(index) for index in range(self.values.shape[1])]
        best = np.argsort(-self.values.astype(np.float64), axis=1, kind="stable")[:, :k]
        return [
            [(names[index], float(row[index])) for index in order]
            for row, order in zip(self.values, best, strict=True)
        ]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Return the values, for NumPy's functions."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        """Say what it is, without its numbers."""
        parts = [f"values={list(self.values.shape)}", f"members={','.join(self.members)}"]
        parts += ["degraded"] * self.degraded
        parts += [f"uncertainty={','.join(self.uncertainty)}"] * bool(self.uncertainty)
        return f"Prediction({', '.join(parts)}, {self.timing.total_s * 1e3:.1f} ms)"
