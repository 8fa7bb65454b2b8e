"""What a prediction is to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Prediction"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The combined answer of an ensemble.

    Attributes:
        values: [n, *outputs], a row per row of the input.
        members: the members that contributed to all rows, in the ensemble's order.
        degraded: whether the answer rests on fewer members than the ensemble has.
        timing: seconds from sending the request to having the answer, on the client's side.
    """

    values: npt.NDArray[np.generic]
    members: tuple[str, ...]
    degraded: bool
    timing: float

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Return the values, for NumPy's functions."""
        return np.array(self.values, dtype=dtype, copy=copy)
