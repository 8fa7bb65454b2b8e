"""One fold of one task: what selection makes of the library, and what its baselines do.

Pure. A library flows in; quality on the judged rows and rows/s of each method flow out, and how
much of quality and speed the front of each covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.exact import Clock
from benchmarks.selection.library import Library
from benchmarks.selection.tasks import Fold, Task
from server.calibration.metrics import Floats
from server.selection.baselines import baselines
from server.selection.costs import Coster
from server.selection.fronts import hypervolume
from server.selection.labelled import LabelledRows
from server.selection.picking import pick
from server.selection.points import Candidate, Point
from server.selection.quality import MEASURES
from server.selection.search import SelectOptions, select

__all__ = ["FoldOutcome", "MethodOutcome", "compare"]

_SEED = 0
_DEVICES = 4
_MEMORY_BYTES = 1 << 30
_MEMBER_BYTES = 32 << 20
_TIME_LIMIT_S = 20.0
#: Sizes of the ensembles that the baselines' fronts are made of.
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50)


class MethodOutcome(msgspec.Struct, frozen=True):
    """What one method chose: the higher the quality, the better."""

    quality: float
    rows_per_s: float
    members: int


class FoldOutcome(msgspec.Struct, frozen=True):
    """What became of a fold.

    Attributes:
        methods: by name.
        covered: the hypervolume of the fronts of ours, `caruana` and `top_k`, over quality and the
            logarithm of rows/s, as a share of the box that all points span.
        failed: by member, what went wrong.
    """

    task: str
    fold: int
    members: int
    methods: dict[str, MethodOutcome]
    covered: dict[str, float]
    failed: dict[str, str]


def problem_of(library: Library) -> Problem:
    """Return the placement of a library on four devices of one core."""
    profiles = [
        Profile(name, "cpu-1", batch, latency_s, _MEMBER_BYTES)
        for name in library.members
        for batch, latency_s in library.latency_s[name].items()
    ]
    devices = tuple(Device(f"cpu:{i}", "cpu-1", _MEMORY_BYTES) for i in range(_DEVICES))
    return Problem(library.members, devices, Profiles(profiles))


def compare(task: Task, fold: Fold, number: int, library: Library) -> FoldOutcome:
    """Select on a fold's validation rows, and judge on its test rows."""
    measure = MEASURES["accuracy" if task.of_classes else "rmse"]
    problem = problem_of(library)
    options = SelectOptions(
        measure=measure,
        test=(library.test, task.y[fold.test]),
        seed=_SEED,
        time_limit_s=_TIME_LIMIT_S,
    )
    found = select(library.valid, task.y[fold.valid], problem, options)
    searched = LabelledRows(library.members, library.valid, task.y[fold.valid], measure)
    judged = LabelledRows(library.members, library.test, task.y[fold.test], measure)
    coster = Coster(problem, options, Clock(_TIME_LIMIT_S))

    def outcome(candidate: Candidate) -> MethodOutcome | None:
        cost = coster.cost(candidate)
        if cost is None:
            return None
        quality = measure.sign * measure(judged.answers(candidate), judged.y)
        return MethodOutcome(quality, cost.rows_per_s, len(candidate.members))

    sized = [baselines(searched, most=size, top=size) for size in _SIZES]
    fronts = {
        "ours": [_outcome(one, measure.sign) for one in (*found.front, *found.dominated)],
        "caruana": [*_known(outcome(one["caruana"]) for one in sized)],
        "top_k": [*_known(outcome(one["top_k"]) for one in sized)],
    }
    methods = {how: _outcome(pick(found, how), measure.sign) for how in ("knee", "best")}
    methods |= {
        name: _outcome(point, measure.sign)
        for name, point in found.baselines.items()
        if point is not None
    }
    return FoldOutcome(
        task=task.name,
        fold=number,
        members=len(library.members),
        methods=methods,
        covered=_covered(fronts),
        failed=dict(library.failed),
    )


def _known(outcomes: Iterable[MethodOutcome | None]) -> Iterable[MethodOutcome]:
    return (one for one in outcomes if one is not None)


def _outcome(point: Point, sign: float) -> MethodOutcome:
    rows_per_s, members = point.cost.rows_per_s, len(point.candidate.members)
    return MethodOutcome(sign * point.quality, rows_per_s, members)


def _covered(fronts: dict[str, list[MethodOutcome]]) -> dict[str, float]:
    """The share of the box between the worst and the best of all fronts that each dominates."""
    values = {name: _values(points) for name, points in fronts.items()}
    together = np.concatenate(list(values.values()))
    low, high = together.min(axis=0), together.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    reference = np.full(2, -0.01)  # so that the ends of a front count, too
    return {name: hypervolume((found - low) / span, reference) for name, found in values.items()}


def _values(points: Sequence[MethodOutcome]) -> Floats:
    return np.array([[one.quality, np.log(one.rows_per_s)] for one in points])
