"""Leaves out what noise alone would choose, before an allocation is searched for.

Runs in the process that plans an allocation; pure. A planned problem and the measurements behind
it flow in, the problem without batch sizes that are not clearly faster than smaller ones flows
out. No rate of an instance falls by more than the tolerance so, and the throughput of an
allocation is proportional to its rates: neither does that of the best allocation.
"""

from __future__ import annotations

from dataclasses import replace

from allocator.profiles import Profiles
from server.deployment.costs import PlannedProblem
from server.profiling import Measurements
from server.profiling.comparison import preferred_batch

__all__ = ["prefer_small_batches"]


def prefer_small_batches(planned: PlannedProblem, found: Measurements) -> PlannedProblem:
    """Return the problem in which of equally fast batch sizes only the smallest is there.

    Args:
        planned: the problem with all batch sizes.
        found: what the members cost, and how exactly that is known.
    """
    problem, notes = planned.problem, list(planned.corrections)
    profiles = []
    for member, kind in dict.fromkeys((one.member, one.device_kind) for one in problem.profiles):
        options = problem.profiles.of(member, kind)
        rates = {size: one.rows_per_s for size, one in options.items()}
        preferred = preferred_batch(rates, found.noise.get((member, kind), {}))
        fastest = max(rates, key=rates.__getitem__)
        if preferred < fastest:
            notes.append(
                f"{member} on {kind} has batches of {preferred}: those of {fastest} are "
                f"{rates[fastest] / rates[preferred] - 1:.1%} faster, which is not clear"
            )
        profiles += [one for size, one in options.items() if size <= preferred]
    searched = replace(problem, profiles=Profiles(profiles))
    return replace(planned, problem=searched, corrections=tuple(notes))
