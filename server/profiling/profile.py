"""Finds out what members cost: what is in the cache, what to measure, and in which order.

Runs in the process that becomes the supervisor, or in a command, before anything is served. Members
and devices flow in, `Measurements` flow out, and progress meanwhile.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from allocator.problem import Device, Problem
from server.config import Config
from server.members.inspect import InspectedMember
from server.members.variants import VARIANT
from server.profiling.cache import fingerprints, load_record, store_record
from server.profiling.exploration import Exploration, OnProgress, ProblemOf
from server.profiling.measurements import Measurements, collect
from server.profiling.profiler import TargetProfiler, time_allowances
from server.profiling.targets import ProfileRecord, ProfileTarget, TargetKey, profile_targets
from server.profiling.variants import with_fastest_variants
from workers.profiler.energy import energy_meters
from workers.runtime.spec import DeviceSpec

__all__ = ["OnProgress", "placed_devices", "profile_members"]

_log = logging.getLogger(__name__)


def profile_members(
    config: Config,
    members: Sequence[InspectedMember],
    devices: Sequence[DeviceSpec],
    *,
    budget_s: float | None = None,
    until_certain: bool = False,
    problem_of: ProblemOf | None = None,
    fresh: bool = False,
    energy: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Measurements:
    """Find out what each member costs on each kind of device; `fresh` ignores the cache.

    A member runs as the fastest of its variants, see `server.profiling.variants`.
    `budget_s` is for those without a complete record, None is no limit. First is measured what may
    change the allocation, which is searched for as `problem_of` says (by default, by the plain
    performance model). The rest of the budget is divided among the members, smallest first, unless
    measuring is to end once the allocation is certain. What could not be measured is predicted.
    With `energy`, or if it is the objective of placement, the joules of batches are measured, too,
    where the host has a meter.

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
    measured: set[TargetKey] = set()

    def keep(group: Sequence[ProfileTarget], record: ProfileRecord) -> None:
        before, fingerprint = records[group[0].key], prints.get(group[0].key)
        records.update((target.key, record) for target in group)
        if record.measured and record != before:
            measured.update(target.key for target in group)
            if fingerprint is not None:
                store_record(record, fingerprint)

    end = math.inf if budget_s is None else time.monotonic() + budget_s
    exploration = Exploration(
        targets, list(groups.values()), records, problem_of or _plain(devices), on_progress
    )
    if pending and budget_s:
        for group, record in exploration.run(end):
            keep(group, record)
    if not until_certain:
        left = [one for one in groups.values() if not one[0].is_complete(records[one[0].key])]
        for group, record in _measure(left, records, end, on_progress):
            keep(group, record)
    from_cache = sum(not target.is_fake for target in targets) - len(pending)
    forms = collect(targets, records, from_cache=from_cache, measured=len(measured))
    for name, kind in forms.estimated:
        if VARIANT in name:
            _log.info("%s on %s is not used: `ensembled profile` tells if it is faster", name, kind)
    return replace(with_fastest_variants(forms), doubt=exploration.doubt)


def placed_devices(devices: Sequence[DeviceSpec]) -> tuple[Device, ...]:
    """Return the devices as a problem has them, with the memory for workers, too."""
    return tuple(
        Device(one.name, one.kind, one.memory_bytes, one.cores, one.pool) for one in devices
    )


def _plain(devices: Sequence[DeviceSpec]) -> ProblemOf:
    """The problem by the plain performance model, without what a server costs."""
    pool = placed_devices(devices)
    return lambda found: Problem(found.profiles.members, pool, found.profiles)


def _metered(targets: Sequence[ProfileTarget]) -> list[ProfileTarget]:
    """Mark the targets on kinds of devices whose energy the host tells."""
    first = {target.devices[0].kind: target.devices[0] for target in targets}
    told = {kind for kind, device in first.items() if energy_meters(device)}
    return [replace(target, is_metered=target.devices[0].kind in told) for target in targets]


def _measure(
    groups: Sequence[Sequence[ProfileTarget]],
    records: Mapping[TargetKey, ProfileRecord],
    end: float,
    on_progress: OnProgress,
) -> Iterator[tuple[Sequence[ProfileTarget], ProfileRecord]]:
    """Measure the first target of each group, and yield the group with its new record."""
    total = len(groups)
    # There are fewer allowances than groups if the time runs out.
    turns = zip(groups, time_allowances(end, total), strict=False)
    for done, (group, allowance) in enumerate(turns):

        def report(what: str, done: int = done) -> None:
            on_progress(what, done, total)

        yield group, TargetProfiler(group[0], records[group[0].key], allowance, report).run()
        if done + 1 == total:
            on_progress("done", total, total)
