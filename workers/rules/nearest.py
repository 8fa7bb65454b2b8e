"""The medoid: a rule whose answer is what one of the members really predicted.

Runs in the combiner; see `workers.rules.averages` for what flows in and out. It is meant for
continuous actions: the mean of "steer left" and "steer right" is the obstacle between them.

Source: Pochelu, Petiton and Conche, "Distributed Ensembles of Reinforcement Learning Agents for
Electricity Control" (2022, arXiv 2208.14338).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["medoid"]

Array = npt.NDArray[Any]

# Distances that differ by less, relative to the least, are equal but for rounding.
_EQUAL = 1e-9


def medoid(predictions: Array, weights: Array, out: Array) -> None:
    """``p_k`` with ``k = argmin_m ||p_m - c||`` and ``c = sum_m w_m p_m / sum_m w_m``.

    Distances are Euclidean over all outputs of a row. Among equally near members the first in the
    ensemble's order is taken; so it is of two members whose weights are equal.
    """
    members, rows = predictions.shape[:2]
    values = predictions.reshape(members, rows, -1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite values: then the first, too
        centroid = np.einsum("m,mrk->rk", weights / weights.sum(), values)
        distance = np.linalg.norm(values - centroid, axis=-1)
        nearest = (distance <= distance.min(axis=0) * (1 + _EQUAL)).argmax(axis=0)
    out[...] = predictions[nearest, np.arange(rows)]
