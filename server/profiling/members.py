"""Finds out what members cost: what is known already, what to measure, and in which order.

Runs in the process that plans an allocation, before anything is served. Members and devices flow
in, `Measurements` flow out, and progress meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from server.config import Config
from server.members.member import InspectedMember
from server.profiling.allowance import allowances
from server.profiling.cache import fingerprints, recall, remember
from server.profiling.known import Known
from server.profiling.measurements import Measurements, collect
from server.profiling.measuring import Measuring
from server.profiling.pairs import Pair, pairs_of
from workers.runtime.spec import DeviceSpec

__all__ = ["OnProgress", "profile_members"]

#: Called with what is being done, how many members (per kind of device) are done, and of how many;
#: those that are alike are one.
OnProgress = Callable[[str, int, int], None]


def profile_members(
    config: Config,
    members: Sequence[InspectedMember],
    devices: Sequence[DeviceSpec],
    *,
    budget_s: float | None = None,
    fresh: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Measurements:
    """Find out what each member costs on each kind of device.

    Args:
        config: the configuration, for the batch sizes.
        members: of this configuration.
        devices: where members may go.
        budget_s: how long that may take, about; it is divided among the members that are not
            known, smallest first, and those of which nothing could be measured within it are
            estimated. None is as long as it takes.
        fresh: measure what is in the cache, too.
        on_progress: called while something is measured.

    Raises:
        ConfigError: if the configuration and a model disagree.
        StartError: if a member can't run on any of the devices.
    """
    pairs = list(pairs_of(config, members, devices))
    prints = fingerprints(pairs)
    known = {pair.key: Known() if fresh else recall(pair, prints.get(pair.key)) for pair in pairs}
    pending = [pair for pair in pairs if not pair.is_complete(known[pair.key])]
    measured = 0
    for group, after in _measure(_alike(pending, prints), known, budget_s, on_progress):
        before, fingerprint = known[group[0].key], prints.get(group[0].key)
        known.update((pair.key, after) for pair in group)
        if after.measured and after != before:
            measured += len(group)
            if fingerprint is not None:
                remember(after, fingerprint)
    from_cache = sum(not pair.is_fake for pair in pairs) - len(pending)
    return collect(pairs, known, from_cache=from_cache, measured=measured)


def _alike(pending: Sequence[Pair], prints: Mapping[tuple[str, str], str]) -> list[list[Pair]]:
    """Group the pairs of which one measurement tells all, smallest model first."""
    groups: dict[object, list[Pair]] = {}
    for pair in sorted(pending, key=lambda pair: pair.member.signature.parameter_bytes):
        groups.setdefault(prints.get(pair.key, pair.key), []).append(pair)
    return list(groups.values())


def _measure(
    groups: Sequence[Sequence[Pair]],
    known: Mapping[tuple[str, str], Known],
    budget_s: float | None,
    on_progress: OnProgress,
) -> Iterator[tuple[Sequence[Pair], Known]]:
    """Measure the first of each group, and yield what is known of the group then."""
    total = len(groups)
    # There are fewer allowances than groups if the time is over before.
    turns = zip(groups, allowances(budget_s, total), strict=False)
    for done, (group, allowance) in enumerate(turns):
        pair = group[0]

        def report(what: str, done: int = done) -> None:
            on_progress(what, done, total)

        yield group, Measuring(pair, known[pair.key], allowance, report).run()
        if done + 1 == total:
            on_progress("done", total, total)
