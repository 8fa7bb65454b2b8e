"""Corrects the performance model by what servers have seen before.

Runs in the process that plans an allocation. The history of a configuration and a problem flow in;
a problem flows out whose latencies are those of production, for members that have run there.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from allocator.problem import Problem
from allocator.profiles import Profiles
from server.config import Config
from server.deployment.costs import PlannedProblem
from server.following.correction import slowdowns, slowed
from server.following.traffic import InstanceTraffic, Traffic
from server.history.database import HistoryError, find_history, read_served, read_windows
from server.history.windows import Served, Window, model_key
from server.members.inspect import InspectedMember

__all__ = ["corrected_by", "read_experience", "read_week", "with_experience"]

_log = logging.getLogger(__name__)

_One = TypeVar("_One")

#: What is older says nothing of the machine as it is.
_WEEK_S = 7 * 24 * 3600.0
#: Placement changes only for what has shown in so many batches.
_FEWEST_BATCHES = 500


def read_experience(config: Config) -> list[Served]:
    """Return what servers with this configuration have served in the last week, by instance.

    A history that can't be read is logged: planning goes on without it.
    """
    return _read(config, read_served)


def read_week(config: Config) -> list[Window]:
    """Return the windows of what `read_experience` has the sums of."""
    return _read(config, read_windows)


def _read(config: Config, read: Callable[..., list[_One]]) -> list[_One]:
    path = find_history(config)
    try:
        return [] if path is None else read(path, since=time.time() - _WEEK_S)
    except HistoryError as error:
        _log.warning("planning without the history: %s", error)
        return []


def with_experience(
    planned: PlannedProblem, served: Sequence[Served], members: Sequence[InspectedMember]
) -> PlannedProblem:
    """Return the problem with the latencies of production, and lines that say so."""
    problem, notes = corrected_by(served, planned.problem, members)
    return replace(planned, problem=problem, corrections=(*planned.corrections, *notes))


def corrected_by(
    served: Sequence[Served], problem: Problem, members: Sequence[InspectedMember]
) -> tuple[Problem, list[str]]:
    """Return a problem with latencies as servers have seen them, and a line for each change.

    A member counts if the same model has run, under whatever name, on a device of the same name
    and kind.
    """
    kinds = {device.name: device.kind for device in problem.devices}
    keys = {member.name: model_key(member.source) for member in members} if served else {}
    instances: defaultdict[str, dict[str, InstanceTraffic]] = defaultdict(dict)
    for one in served:
        if kinds.get(one.device) == one.kind:
            same = (name for name, key in keys.items() if key == one.model)
            instances[one.device].update(dict.fromkeys(same, one.traffic))
    seen = Traffic(0, 0.0, instances=dict(instances))
    factors = slowdowns(problem, seen, fewest_batches=_FEWEST_BATCHES)
    if not factors:
        return problem, []
    notes = [
        f"{member} on {kind} takes {factor:.2f} x as long as profiled, as servers have seen"
        for (member, kind), factor in factors.items()
    ]
    return replace(problem, profiles=Profiles(slowed(problem.profiles, factors))), notes
