"""How far the answers of two versions to the same rows agree.

Runs in the front-end; pure. Two arrays of rows flow in, the rows that disagree flow out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Agreement", "Values", "compare"]

_Array = npt.NDArray[Any]


class Values(NamedTuple):
    """A model's main output for some rows.

    Attributes:
        array: [rows, *shape], numbers.
        class_axis: where its classes are, counted from the end; None if it has none.
        labels: of the classes, may be empty.
    """

    array: _Array
    class_axis: int | None = None
    labels: Sequence[str] = ()


class Agreement(NamedTuple):
    """The result of a comparison.

    Attributes:
        rows: that were compared.
        disagreeing: how many of them disagree; of a row with many points, the share that does.
        difference: the largest between two numbers, 0 for classes and for rows of unequal shapes.
    """

    rows: int
    disagreeing: float
    difference: float


def compare(present: Values, new: Values, tolerance: float) -> Agreement:
    """Compare two answers to the same rows, of which there is at least 1.

    Classes agree if the best one is the same: by label, if both versions have labels, else by
    index. Numbers agree if they differ by at most `tolerance * max(1, |present|)`; NaN agrees with
    NaN. Rows of unequal shapes disagree.
    """
    rows = len(present.array)
    if present.class_axis is not None and new.class_axis is not None:
        has_labels = bool(present.labels and new.labels)
        first, second = _best(present, has_labels), _best(new, has_labels)
        if first.shape != second.shape:
            return Agreement(rows, rows, 0.0)
        return Agreement(rows, _sum_of_rows(first != second), 0.0)
    if present.array.shape != new.array.shape:
        return Agreement(rows, rows, 0.0)
    first, second = present.array.astype(np.float64), new.array.astype(np.float64)
    is_equal = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(over="ignore"):  # that is infinite, and far
        gaps = np.abs(np.subtract(first, second, where=~is_equal, out=np.zeros_like(first)))
        is_near = is_equal | (np.isfinite(gaps) & (gaps <= tolerance * _scale(first)))
    difference = float(np.max(gaps, where=np.isfinite(gaps), initial=0.0))
    return Agreement(rows, _sum_of_rows(~is_near), difference)


def _scale(values: _Array) -> _Array:
    """What the tolerance is relative to."""
    return np.maximum(1.0, np.abs(values, where=np.isfinite(values), out=np.ones_like(values)))


def _sum_of_rows(points: _Array) -> float:
    """The sum of each row's share of points that are true."""
    return float(points.reshape(len(points), -1).mean(axis=1).sum())


def _best(values: Values, has_labels: bool) -> _Array:
    """The best class of each point, by label or by index."""
    assert values.class_axis is not None
    best = np.asarray(values.array.argmax(axis=values.class_axis))
    return np.asarray(values.labels, np.str_)[best] if has_labels else best
