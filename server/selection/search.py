"""The search of `ensembled select`: from predictions and profiles to the front of ensembles.

Runs in the process of the command line; pure. Members' predictions of labelled rows, what is true
of these, and an allocation problem over the members flow in, a `Selection` flows out.

What rows are used for: the *searched* rows decide everything, which sets are looked at, which of
them are on the front, and where its knee is. The *judged* rows, which are given or split off
beforehand, decide nothing: they give each point's quality with its interval, and points that are
dominated by these figures are listed apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from allocator.problem import Problem
from allocator.search.exact import Clock
from server.calibration.metrics import Array, Floats
from server.errors import ConfigError
from server.selection.baselines import baselines, equal
from server.selection.checks import usable_members
from server.selection.costs import Coster, cost_gains
from server.selection.diversity import diversity
from server.selection.fronts import knee, nondominated
from server.selection.guard import judge, split
from server.selection.labelled import LabelledRows
from server.selection.options import SelectOptions
from server.selection.placing import Placed, Rated, place
from server.selection.points import Candidate, Point, Selection
from server.selection.sets import all_sets, pooled_beams

__all__ = ["SelectOptions", "select"]

#: Of so many members all sets are looked at.
_FEW = 12
#: Of how many mixed members the gain is shown.
_MOST_MIXED = 32
_TOLERANCE = 0.003


def select(predictions: Floats, y: Array, problem: Problem, options: SelectOptions) -> Selection:
    """Find the ensembles worth serving.

    Args:
        predictions: of the members in the order of `problem.members`, float64: probabilities
            [members, rows, classes], or numbers [members, rows, *shape].
        y: classes, int64 [rows], or numbers, float64 [rows, *shape].
        problem: devices and profiles of the whole library.
        options: see `SelectOptions`.

    Raises:
        ConfigError: if predictions and y don't fit, there are too few rows, no ensemble can be
            placed, or none satisfies the constraints.
    """
    left_out = usable_members(predictions, y, problem, options)
    return _Selecting(predictions, y, problem, options, left_out).run()


class _Selecting:
    """One selection."""

    def __init__(
        self,
        predictions: Floats,
        y: Array,
        problem: Problem,
        options: SelectOptions,
        left_out: Mapping[str, str],
    ) -> None:
        self._options = options
        self._left_out = left_out
        self._clock = Clock(options.time_limit_s)
        used = [i for i, name in enumerate(problem.members) if name not in left_out]
        names = tuple(problem.members[i] for i in used)
        rows = LabelledRows(names, predictions[used], y, options.measure)
        if options.test is None:
            searched, judged = split(y, rows.of_classes, options.holdout, options.seed)
            self._searched, self._judged = rows.part(searched), rows.part(judged)
        else:
            tested, truth = options.test
            self._searched = rows
            self._judged = LabelledRows(names, tested[used], truth, options.measure)
        self._coster = Coster(replace(problem, members=names), self._clock, options.seed)

    def run(self) -> Selection:
        """Search, judge and compare."""
        options, measure = self._options, self._options.measure
        found = self._front()
        best = knee(
            np.array([one.gain for one in found]),
            np.log([one.cost.rows_per_s for one in found]),
            _TOLERANCE,
        )
        top = len(found[best].candidate.members)
        others = baselines(self._searched, most=options.most_members, top=top)
        compared = {name: self._placed(one) for name, one in others.items()}
        points = self._points([*found, *(one for one in compared.values() if one is not None)])
        front, dominated = self._sort(points[: len(found)])
        rest = iter(points[len(found) :])
        return Selection(
            measure=measure.name,
            higher_is_better=measure.higher_is_better,
            front=front,
            dominated=dominated,
            knee=points[best],
            baselines={name: next(rest) if one else None for name, one in compared.items()},
            diversity=diversity(self._searched, self._judged, most=_MOST_MIXED),
            selected_on=len(self._searched.y),
            judged_on=len(self._judged.y),
            left_out=self._left_out,
        )

    def _keep_going(self) -> bool:
        return not self._clock.is_over()

    def _front(self) -> list[Placed]:
        """Return the front by the searched rows."""
        rows, most = self._searched, self._options.most_members
        few = len(rows.members) <= _FEW
        sets = all_sets(len(rows.members), most) if few else pooled_beams(
            rows,
            self._coster.bounds,
            most=most,
            seed=self._options.seed,
            keep_going=self._keep_going,
        )  # fmt: skip
        gains, bounds = rows.gains(sets), self._coster.bounds(sets)
        rated = [
            Rated(equal(rows, one), float(gain), float(bound))
            for one, gain, bound in zip(sets, gains, bounds, strict=True)
        ]
        found = place(rated, self._coster, self._options.costs, keep_going=self._keep_going)
        if not found:
            raise ConfigError("no ensemble of the library has a place on the devices")
        return found

    def _placed(self, candidate: Candidate) -> Placed | None:
        cost = self._coster.cost(candidate)
        answers = self._searched.answers(candidate)
        gain = -float(self._searched.losses(answers[np.newaxis])[0])
        return None if cost is None else Placed(candidate, gain, cost)

    def _points(self, found: Sequence[Placed]) -> list[Point]:
        sign = self._options.measure.sign
        candidates = [one.candidate for one in found]
        qualities, intervals = judge(self._judged, candidates, self._options.seed)
        judged = zip(qualities.tolist(), intervals.tolist(), strict=True)
        return [
            Point(one.candidate, sign * one.gain, quality, (low, high), one.cost)
            for one, (quality, (low, high)) in zip(found, judged, strict=True)
        ]

    def _sort(self, points: Sequence[Point]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
        """Return the front by the judged rows, and what is dominated there; the fastest first."""
        options = self._options
        sign = options.measure.sign
        values = [[sign * one.quality, *cost_gains(one.cost, options.costs)] for one in points]
        on_front = set(nondominated(np.array(values)).tolist())
        order = sorted(range(len(points)), key=lambda i: -points[i].cost.rows_per_s)
        return (
            tuple(points[i] for i in order if i in on_front),
            tuple(points[i] for i in order if i not in on_front),
        )
