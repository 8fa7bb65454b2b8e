"""What a selection is about: candidate ensembles, what they cost, and how good they are.

Pure data, used in the process of the command line. `server.selection.search` makes points, reports
and the configuration to be served are made of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from allocator.search.search import Allocation

__all__ = ["Candidate", "Cost", "Diversity", "Point", "Selection", "StagedExit"]


@dataclass(frozen=True)
class StagedExit:
    """The cascade of a candidate.

    Attributes:
        stages: the members' names, each member in one stage, at least two stages.
        confidence: the threshold after each stage but the last.
        reached: the share of the rows that each stage predicts, from 1.0 downwards.
    """

    stages: tuple[tuple[str, ...], ...]
    confidence: tuple[float, ...]
    reached: tuple[float, ...]


@dataclass(frozen=True)
class Candidate:
    """An ensemble that could be served: the weighted mean of some members.

    Attributes:
        members: distinct names, in the library's order.
        weights: a positive one for each, they add up to 1.
        cascade: None if all members predict every row.
    """

    members: tuple[str, ...]
    weights: tuple[float, ...]
    cascade: StagedExit | None = None

    @property
    def demand(self) -> Mapping[str, float]:
        """Rows that each member predicts per row of traffic."""
        if self.cascade is None:
            return dict.fromkeys(self.members, 1.0)
        staged = zip(self.cascade.stages, self.cascade.reached, strict=True)
        return {member: share for stage, share in staged for member in stage}


@dataclass(frozen=True)
class Cost:
    """What a candidate costs at the best allocation of its members that was found.

    Attributes:
        bound_rows_per_s: no allocation is faster, None if nothing was proven.
        memory_bytes: of all instances together.
        devices: how many have an instance.
        joules_per_row: None if a member's energy is not known.
        p99_s: the 99th percentile of the latency at the rate that was asked about, by simulation,
            infinite if the rate is too high; None if none was asked about.
    """

    rows_per_s: float
    bound_rows_per_s: float | None
    memory_bytes: int
    devices: int
    joules_per_row: float | None
    p99_s: float | None
    allocation: Allocation

    @property
    def gap(self) -> float | None:
        """How far the rate may be from the best, as a share of the bound."""
        if self.bound_rows_per_s is None or not math.isfinite(self.bound_rows_per_s):
            return None
        return max(0.0, 1 - self.rows_per_s / self.bound_rows_per_s)


@dataclass(frozen=True)
class Point:
    """A candidate, judged on rows that it was not selected on.

    Qualities are in the measure's own unit. `quality_interval` is the bootstrap interval of 95% of
    `quality`; `selected_quality` is that on the rows that were searched on.
    """

    candidate: Candidate
    selected_quality: float
    quality: float
    quality_interval: tuple[float, float]
    cost: Cost


@dataclass(frozen=True)
class Diversity:
    """How different the members of the library are, in the order of `members`.

    Attributes:
        disagreement: share of the rows whose best classes differ (for numbers: root mean square
            difference), [members, members].
        error_correlation: correlation of being wrong (for numbers: of the errors), the same shape;
            NaN where a member makes no error.
        gain: by how many members are mixed, best next one first, the quality that is reached.
    """

    members: tuple[str, ...]
    disagreement: tuple[tuple[float, ...], ...]
    error_correlation: tuple[tuple[float, ...], ...]
    gain: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Selection:
    """What was found.

    Attributes:
        measure: the name of the quality.
        higher_is_better: whether a higher quality is better.
        front: no other point found is better in quality and no worse in the costs that were asked
            about; by descending rows/s.
        dominated: points that are on the front by the rows that were searched on, but not by those
            that they are judged on.
        knee: the point to take if nothing else is known, see `server.selection.fronts.knee`; it is
            decided by the rows that were searched on alone, so it may be one of `dominated`.
        baselines: `best_single`, `all`, `caruana`, `top_k`; None where one can't be placed.
        left_out: by member, why it is no candidate.
        selected_on: rows that sets were searched on; `judged_on`: rows that they are judged on.
        notes: for the user, one line each.
    """

    measure: str
    higher_is_better: bool
    front: tuple[Point, ...]
    dominated: tuple[Point, ...]
    knee: Point
    baselines: Mapping[str, Point | None]
    diversity: Diversity
    selected_on: int
    judged_on: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
