"""A selection as JSON: the front, what it is compared with, who was left out, how members differ.

Runs in the process of the command line; pure. A selection flows in, a document of plain values
flows out, in which what is not known, or no number, is null.
"""

from __future__ import annotations

import math
from typing import Any

from server.selection.points import Diversity, Point, Selection

__all__ = ["point_document", "selection_document"]


def selection_document(selection: Selection, picked: Point | None = None) -> dict[str, Any]:
    """Return all that was found."""
    return {
        "front": [point_document(one) for one in selection.front],
        "baselines": {
            name: None if one is None else point_document(one)
            for name, one in selection.baselines.items()
        },
        "left_out": dict(selection.left_out),
        "knee": point_document(selection.knee),
        "picked": None if picked is None else point_document(picked),
        "dominated": [point_document(one) for one in selection.dominated],
        "measure": selection.measure,
        "higher_is_better": selection.higher_is_better,
        "rows": {"searched": selection.selected_on, "judged": selection.judged_on},
        "diversity": _diversity(selection.diversity),
        "notes": [*selection.notes],
    }


def point_document(point: Point) -> dict[str, Any]:
    """Return a point, with its allocation."""
    candidate, cost = point.candidate, point.cost
    cascade, matrix = candidate.cascade, cost.allocation.matrix
    return {
        "members": [*candidate.members],
        "weights": [*candidate.weights],
        "cascade": None
        if cascade is None
        else {
            "stages": [[*stage] for stage in cascade.stages],
            "confidence": [*cascade.confidence],
            "reached": [*cascade.reached],
        },
        "quality": point.quality,
        "quality_interval": [*point.quality_interval],
        "selected_quality": point.selected_quality,
        "rows_per_s": cost.rows_per_s,
        "bound_rows_per_s": _finite(cost.bound_rows_per_s),
        "gap": cost.gap,
        "memory_bytes": cost.memory_bytes,
        "devices": cost.devices,
        "joules_per_row": _finite(cost.joules_per_row),
        "p99_ms": None if cost.p99_s is None else _finite(1e3 * cost.p99_s),
        "allocation": {
            "members": [*matrix.members],
            "devices": [*matrix.devices],
            "matrix": [[*row] for row in matrix.cells],
        },
    }


def _diversity(diversity: Diversity) -> dict[str, Any]:
    return {
        "members": [*diversity.members],
        "disagreement": [[*row] for row in diversity.disagreement],
        "error_correlation": [[*map(_finite, row)] for row in diversity.error_correlation],
        "gain": [{"member": name, "quality": quality} for name, quality in diversity.gain],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
