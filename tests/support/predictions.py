"""Random predictions of members, and rules applied to them as the combiner does."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

_SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 5))
_DTYPES = st.sampled_from([np.float32, np.float64])

#: Relative, for answers that are computed in the type itself.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


def predictions(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[np.ndarray]:
    """[members, rows, outputs], float32 or float64."""
    return st.tuples(_SHAPES, _DTYPES).flatmap(
        lambda drawn: arrays.arrays(drawn[1], drawn[0], elements=elements)
    )


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32, allow_subnormal=False)


#: Any values; probabilities as they may be, zeros among them; few distinct values: many ties.
values = predictions(floats(-1e6, 1e6))
shares = predictions(floats(0.0, 1.0))
ties = predictions(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
whole = predictions(st.integers(-3, 3).map(float))


def weights_for(given: np.ndarray) -> st.SearchStrategy[np.ndarray]:
    count = len(given)
    return st.lists(st.floats(0.01, 100), min_size=count, max_size=count).map(np.array)


def whole_weights_for(given: np.ndarray) -> st.SearchStrategy[np.ndarray]:
    count = len(given)
    drawn = st.lists(st.integers(1, 3), min_size=count, max_size=count)
    return drawn.map(lambda one: np.array(one, float))


def applied(rule: Any, given: np.ndarray, weights: Any = None, **options: Any) -> np.ndarray:
    """A rule's answer, written as into the arena, where answers and members lie with gaps."""
    weights = np.ones(len(given)) if weights is None else np.asarray(weights, float)
    spread = np.repeat(given, 2, axis=1)[:, ::2]
    spread.flags.writeable = False
    padded = np.full((*given.shape[1:], 2), np.nan, given.dtype)
    out = padded[..., 0]
    rule(spread, weights, out, **options)
    assert np.isnan(padded[..., 1]).all(), "nothing else is written"
    return out


def close(answer: np.ndarray, wanted: Any, scale: float = 1.0) -> None:
    """Equal within the tolerance of the answer's type; `scale` is that of what went in."""
    tolerance = TOLERANCE[answer.dtype]
    np.testing.assert_allclose(answer, wanted, rtol=tolerance, atol=tolerance * max(1.0, scale))
