"""Pareto fronts: which points are on one, how much it dominates, and where its knee is.

Runs in the process of the command line; pure. Values [points, objectives] flow in, all of them the
better the higher they are.

Source of the hypervolume: Zitzler and Thiele, "Multiobjective Evolutionary Algorithms: A
Comparative Case Study and the Strength Pareto Approach" (IEEE Transactions on Evolutionary
Computation 3, 1999).
"""

from __future__ import annotations

import numpy as np

from server.calibration.metrics import Floats, Rows

__all__ = ["hypervolume", "is_dominated", "knee", "nondominated", "spread"]


def nondominated(values: Floats) -> Rows:
    """Return the indices of the points that no other one dominates, by descending first objective.

    Of equal points the first one is there.
    """
    order = np.lexsort(-values.T[::-1])
    if values.shape[1] == 2:
        second = values[order, 1]
        before = np.maximum.accumulate(np.concatenate([[-np.inf], second[:-1]]))
        is_better = second > before
        is_better[:1] = True  # even if its second one is infinitely bad
        return np.asarray(order[is_better])
    kept: list[int] = []
    for index in order:  # whatever dominates a point comes before it
        if not is_dominated(values[index], values[kept]):
            kept.append(int(index))
    return np.array(kept, np.int64)


def spread(count: int, most: int) -> Rows:
    """Return at most so many of the numbers up to a count, at equal distances, both ends."""
    chosen = np.linspace(0, max(count - 1, 0), min(count, most)).round()
    return np.asarray(chosen, np.int64)


def is_dominated(value: Floats, others: Floats) -> bool:
    """Whether one of the others [points, objectives] is at least as good in everything."""
    return bool((others >= value).all(axis=1).any())


def hypervolume(values: Floats, reference: Floats) -> float:
    """Return the volume that points dominate above a reference point, exactly.

    It is cut into slices along the last objective, so the cost grows with a power of their number.
    """
    values = values[(values > reference).all(axis=1)]
    if not len(values):
        return 0.0
    if values.shape[1] == 1:
        return float(values.max() - reference[0])
    values = values[np.argsort(-values[:, -1], kind="stable")]
    heights = values[:, -1] - np.append(values[1:, -1], reference[-1])
    return sum(
        float(height) * hypervolume(values[: i + 1, :-1], reference[:-1])
        for i, height in enumerate(heights)
        if height > 0
    )


def knee(gains: Floats, costs: Floats) -> int:
    """Return the index of the point that gives most for what it costs.

    It is the one that is farthest above the chord from the best one to the cheapest one, both axes
    scaled to the chord's ends. Gains and costs are the better the higher they are, [points].
    """
    best = np.lexsort((-costs, -gains))[0]
    cheapest = np.lexsort((-gains, -costs))[0]
    spans = gains[best] - gains[cheapest], costs[cheapest] - costs[best]
    if min(spans) <= 0:
        return int(cheapest)
    height = (gains - gains[cheapest]) / spans[0] + (costs - costs[best]) / spans[1]
    return int(height.argmax())
