"""Finds out what members cost: what is in the cache, what to measure, and in which order.

Runs in the process that becomes the supervisor, or in a command, before anything is served. Members
and devices flow in, `Measurements` flow out, and progress meanwhile.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from server.config import Config
from server.members.inspect import InspectedMember
from server.members.variants import VARIANT
from server.profiling.cache import fingerprints, load_record, store_record
from server.profiling.measurements import Measurements, collect
from server.profiling.profiler import TargetProfiler, time_allowances
from server.profiling.targets import ProfileRecord, ProfileTarget, TargetKey, profile_targets
from server.profiling.variants import with_fastest_variants
from workers.profiler.energy import energy_meters
from workers.runtime.spec import DeviceSpec

__all__ = ["OnProgress", "profile_members"]

_log = logging.getLogger(__name__)

#: Called with what is being done, how many targets are done, and of how many; identical targets
#: count once.
OnProgress = Callable[[str, int, int], None]


def profile_members(
    config: Config,
    members: Sequence[InspectedMember],
    devices: Sequence[DeviceSpec],
    *,
    budget_s: float | None = None,
    fresh: bool = False,
    energy: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Measurements:
    """Find out what each member costs on each kind of device; `fresh` ignores the cache.

    A member runs as the fastest of its variants, see `server.profiling.variants`. About `budget_s`
    is divided among the members without a complete record, smallest first; None is no limit. Those
    of which nothing could be measured in time are estimated. With `energy`, or if it is the
    objective of placement, the joules of batches are measured, too, where the host has a meter.

    Raises:
        ConfigError: if the configuration and a model disagree.
        StartError: if a member can't run on any of the devices.
    """
    targets = list(profile_targets(config, members, devices))
    if energy or config.placement.objective == "energy":
        targets = _metered(targets)
    prints = fingerprints(targets)
    records = {
        target.key: ProfileRecord() if fresh else load_record(target, prints.get(target.key))
        for target in targets
    }
    pending = [target for target in targets if not target.is_complete(records[target.key])]
    groups: defaultdict[object, list[ProfileTarget]] = defaultdict(list)  # one measurement each
    for target in sorted(pending, key=lambda target: target.member.signature.parameter_bytes):
        groups[prints.get(target.key, target.key)].append(target)
    measured = 0
    for group, record in _measure(list(groups.values()), records, budget_s, on_progress):
        before, fingerprint = records[group[0].key], prints.get(group[0].key)
        records.update((target.key, record) for target in group)
        if record.measured and record != before:
            measured += len(group)
            if fingerprint is not None:
                store_record(record, fingerprint)
    from_cache = sum(not target.is_fake for target in targets) - len(pending)
    forms = collect(targets, records, from_cache=from_cache, measured=measured)
    for name, kind in forms.estimated:
        if VARIANT in name:
            _log.info("%s on %s is not used: `ensembled profile` tells if it is faster", name, kind)
    return with_fastest_variants(forms)


def _metered(targets: Sequence[ProfileTarget]) -> list[ProfileTarget]:
    """Mark the targets on kinds of devices whose energy the host tells."""
    first = {target.devices[0].kind: target.devices[0] for target in targets}
    told = {kind for kind, device in first.items() if energy_meters(device)}
    return [replace(target, is_metered=target.devices[0].kind in told) for target in targets]


def _measure(
    groups: Sequence[Sequence[ProfileTarget]],
    records: Mapping[TargetKey, ProfileRecord],
    budget_s: float | None,
    on_progress: OnProgress,
) -> Iterator[tuple[Sequence[ProfileTarget], ProfileRecord]]:
    """Measure the first target of each group, and yield the group with its new record."""
    total = len(groups)
    # There are fewer allowances than groups if the time runs out.
    turns = zip(groups, time_allowances(budget_s, total), strict=False)
    for done, (group, allowance) in enumerate(turns):

        def report(what: str, done: int = done) -> None:
            on_progress(what, done, total)

        yield group, TargetProfiler(group[0], records[group[0].key], allowance, report).run()
        if done + 1 == total:
            on_progress("done", total, total)
