"""The search of `ensembled select`: from predictions and profiles to the front of ensembles.

Runs in the process of the command line; pure. Members' predictions of labelled rows, what is true
of these, and an allocation problem over the members flow in, a `Selection` flows out.

What rows are used for: the *searched* rows decide everything, which sets are looked at, which of
them are on the front, and where its knee is; weights and thresholds are fitted on them, and rated
on the half of them that they were not fitted on. The *judged* rows, which are given or split off
beforehand, decide nothing: they give each point's quality with its interval, and points that are
dominated by these figures are listed apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from allocator.problem import Problem
from allocator.search.exact import Clock
from server.calibration.metrics import Array, Floats
from server.selection.baselines import baselines, equal
from server.selection.bounds import CostBounds
from server.selection.checks import usable_members
from server.selection.costs import Coster, cost_values, gains_of
from server.selection.diversity import diversity
from server.selection.fronts import knee, nondominated
from server.selection.guard import CrossFit, Rated, judge, near_best, split
from server.selection.labelled import LabelledRows
from server.selection.options import SelectOptions
from server.selection.placing import Placed, Placer
from server.selection.points import Candidate, Point, Selection
from server.selection.refining import refine
from server.selection.sets import find_sets

__all__ = ["SelectOptions", "select"]

#: Of how many mixed members the gain is shown.
_MOST_MIXED = 32
#: Shares of the time that is left: for sets, and for weights and cascades.
_SETS_SHARE = 0.4
_REFINING_SHARE = 0.3


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
            placed, or none keeps the limits.
    """
    left_out = usable_members(predictions, y, problem, options)
    used = [i for i, name in enumerate(problem.members) if name not in left_out]
    names = tuple(problem.members[i] for i in used)
    rows = LabelledRows(names, predictions[used], y, options.measure)
    if options.test is None:
        parts = split(y, rows.of_classes, options.holdout, options.seed)
        searched, judged = map(rows.part, parts)
    else:
        tested, truth = options.test
        searched, judged = rows, replace(rows, predictions=tested[used], y=truth)
    selecting = _Selecting(replace(problem, members=names), searched, judged, options)
    return replace(selecting.run(), left_out=left_out)


class _Selecting:
    """One selection."""

    def __init__(
        self,
        problem: Problem,
        searched: LabelledRows,
        judged: LabelledRows,
        options: SelectOptions,
    ) -> None:
        self._searched = searched
        self._judged = judged
        self._options = options
        self._clock = Clock(options.time_limit_s)
        self._cross_fit = CrossFit(searched, options.seed)
        self._bounds = CostBounds(problem)
        self._coster = Coster(problem, options, self._clock)

    def run(self) -> Selection:
        """Search, judge and compare."""
        options = self._options
        rated = self._rate()
        rates = self._bounds.rows_per_s(self._demands([one.candidate for one in rated]))
        placer = Placer(self._coster, self._bounds, options)
        progress = partial(options.on_progress, "placing")
        found = placer.front(rated, rates, self._keep_going, progress)
        best = self._knee(found)
        top = len(found[best].rated.candidate.members)
        others = baselines(self._searched, most=options.most_members, top=top)
        compared = {name: self._placed(one) for name, one in others.items()}
        options.on_progress("judging", 0, 1)
        points = self._points([*found, *filter(None, compared.values())])
        front, dominated = self._sort(points[: len(found)])
        rest = iter(points[len(found) :])
        return Selection(
            measure=options.measure.name,
            higher_is_better=options.measure.higher_is_better,
            front=front,
            dominated=dominated,
            knee=points[best],
            baselines={name: next(rest) if one else None for name, one in compared.items()},
            diversity=diversity(self._searched, self._judged, most=_MOST_MIXED),
            selected_on=len(self._searched.y),
            judged_on=len(self._judged.y),
            notes=tuple(self._notes()),
        )

    def _keep_going(self) -> bool:
        return not self._clock.is_over()

    def _rate(self) -> list[Rated]:
        """Find candidates and their qualities on the searched rows."""
        rows, options, bounds = self._searched, self._options, self._bounds
        options.on_progress("sets", 0, 1)
        with self._clock.part_s(_SETS_SHARE) as limit_s:
            sets, gains = find_sets(rows, bounds.rows_per_s, options, Clock(limit_s))
        candidates = [equal(rows, one) for one in sets]
        found = [
            Rated(one, gain, (one, one))
            for one, gain in zip(candidates, gains.tolist(), strict=True)
        ]
        options.on_progress("weights and cascades", 0, 1)
        with self._clock.part_s(_REFINING_SHARE) as limit_s:
            return found + refine(
                self._cross_fit,
                sets,
                gains=gains,
                bounds=bounds.rows_per_s(sets),
                options=options,
                clock=Clock(limit_s),
            )

    def _demands(self, candidates: Sequence[Candidate]) -> Floats:
        members = self._searched.members
        return np.array([[one.demand.get(name, 0.0) for name in members] for one in candidates])

    def _knee(self, found: Sequence[Placed]) -> int:
        """Return the index of the knee: of those that are hardly worse than the best one."""
        answers = [self._cross_fit.answers(one.rated.halves) for one in found]
        near = near_best(self._searched, answers, self._options.seed)
        close = np.flatnonzero(near).tolist()
        gains = np.array([found[i].rated.gain for i in close])
        costs = np.log([found[i].cost.rows_per_s for i in close])
        return int(close[knee(gains, costs)])

    def _placed(self, candidate: Candidate) -> Placed | None:
        cost = self._coster.cost(candidate)
        rated = self._cross_fit.rated(candidate, (candidate, candidate))
        return None if cost is None else Placed(rated, cost)

    def _points(self, found: Sequence[Placed]) -> list[Point]:
        candidates = [one.rated.candidate for one in found]
        qualities, intervals = judge(self._judged, candidates, self._options.seed)
        judged = zip(qualities.tolist(), intervals.tolist(), strict=True)
        searched = [self._searched_quality(one.rated) for one in found]
        return [
            Point(one.rated.candidate, before, quality, (low, high), one.cost)
            for one, before, (quality, (low, high)) in zip(found, searched, judged, strict=True)
        ]

    def _searched_quality(self, rated: Rated) -> float:
        answers = self._cross_fit.answers(rated.halves)
        return self._options.measure(answers, self._searched.y)

    def _sort(self, points: Sequence[Point]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
        """Return the front by the judged rows, and what is dominated there; the fastest first."""
        sign, costs = self._options.measure.sign, self._options.costs
        gains = [[sign * one.quality, *gains_of(cost_values(one.cost), costs)] for one in points]
        on_front = set(nondominated(np.array(gains)).tolist())
        order = sorted(range(len(points)), key=lambda i: -points[i].cost.rows_per_s)
        return (
            tuple(points[i] for i in order if i in on_front),
            tuple(points[i] for i in order if i not in on_front),
        )

    def _notes(self) -> Iterator[str]:
        if self._clock.limited:
            yield (
                f"the search was cut short after {self._options.time_limit_s:g} s: more time may "
                "find better ensembles, and a repetition others"
            )
