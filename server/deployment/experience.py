"""Corrects the performance model by what servers have seen before.

Runs in the process that plans an allocation. The history of a configuration and a problem flow in;
a problem flows out whose latencies are those of production, for members that have run there.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from allocator.problem import Problem
from allocator.profiles import Profiles
from server.config import Config
from server.deployment.costs import PlannedProblem
from server.following.correction import slowdowns, slowed
from server.following.traffic import InstanceTraffic, Traffic, total
from server.history.database import HistoryError, find_history, read_windows
from server.history.windows import Window, model_key
from server.members.inspect import InspectedMember

__all__ = ["corrected_by", "read_experience", "with_experience"]

_log = logging.getLogger(__name__)

#: What is older says nothing of the machine as it is.
_WEEK_S = 7 * 24 * 3600.0
#: Placement changes only for what has shown in so many batches.
_FEWEST_BATCHES = 500


def read_experience(config: Config) -> list[Window]:
    """Return what servers with this configuration have served in the last week.

    A history that can't be read is logged: planning goes on without it.
    """
    path = find_history(config)
    try:
        return [] if path is None else read_windows(path, since=time.time() - _WEEK_S)
    except HistoryError as error:
        _log.warning("planning without the history: %s", error)
        return []


def with_experience(
    planned: PlannedProblem, windows: Sequence[Window], members: Sequence[InspectedMember]
) -> PlannedProblem:
    """Return the problem with the latencies of production, and lines that say so."""
    problem, notes = corrected_by(windows, planned.problem, members)
    return replace(planned, problem=problem, corrections=(*planned.corrections, *notes))


def corrected_by(
    windows: Sequence[Window], problem: Problem, members: Sequence[InspectedMember]
) -> tuple[Problem, list[str]]:
    """Return a problem with latencies as windows have seen them, and a line for each change.

    A member counts if the same model has run, under whatever name, on a device of the same name
    and kind.
    """
    names: defaultdict[str, list[str]] = defaultdict(list)
    for member in members:
        names[model_key(member.source)].append(member.name)
    kinds = {device.name: device.kind for device in problem.devices}
    seen = total(_translated(window, names, kinds) for window in windows)
    factors = slowdowns(problem, seen, fewest_batches=_FEWEST_BATCHES)
    if not factors:
        return problem, []
    notes = [
        f"{member} on {kind} takes {factor:.2f} x as long as profiled, as servers have seen"
        for (member, kind), factor in factors.items()
    ]
    return replace(problem, profiles=Profiles(slowed(problem.profiles, factors))), notes


def _translated(window: Window, names: dict[str, list[str]], kinds: dict[str, str]) -> Traffic:
    """The instances of a window that are still of interest, by the present names of members."""
    instances: defaultdict[str, dict[str, InstanceTraffic]] = defaultdict(dict)
    for device, name, one in _instances(window):
        if kinds.get(device) == window.kinds.get(device):
            for member in names.get(window.models.get(name, ""), ()):
                instances[device][member] = one
    return Traffic(0, window.seconds, instances=dict(instances))


def _instances(window: Window) -> Iterator[tuple[str, str, InstanceTraffic]]:
    for device, instances in window.traffic.instances.items():
        for member, one in instances.items():
            yield device, member, one
