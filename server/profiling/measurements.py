"""The result of profiling, collected from what was measured, configured (fakes) and predicted.

Runs in the process that profiles; pure. Targets and their records flow in, `Measurements` flow out
to `server.deployment`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from allocator.profiles import Profile, Profiles
from server.errors import StartError
from server.members.variants import VARIANT
from server.profiling.energy import estimated_watts, idle_watts
from server.profiling.lengths import expected_factor
from server.profiling.predictions import predict_costs
from server.profiling.targets import ProfileRecord, ProfileTarget, TargetKey
from workers.profiler.energy import EnergySource

__all__ = ["Measurements", "collect"]

#: A co-location factor below this is noise.
_LEAST_SLOWDOWN = 1.02

#: A fake member sleeps; its worker's overhead for a job comes on top.
_FAKE_OVERHEAD_S = 20e-6
_FAKE_BYTES = 1 << 20


@dataclass(frozen=True)
class Measurements:
    """What members cost.

    Attributes:
        profiles: measured, configured (fake members) or predicted, which then have intervals; what
            is absent can't be used.
        worker_bytes: by kind of device, memory of a worker there without any member; the most of
            the runtimes in use. Kinds on which nothing was ever measured are absent.
        colocation: by member and kind, by what factor a batch takes longer while the other
            devices of this kind (eight at most, including it) are as busy; 1.0 or more.
        noise: by member and kind, the relative standard error of the rows per second of those
            batch sizes that were compared with each other; where nothing was measured, of the
            predictions.
        missing: member, kind, and why it can't run there at all or not with larger batches.
        estimated: members and kinds of which nothing was measured, and all is predicted.
        energy: by member and kind, where the joules of its profiles are from; absent if it has
            none.
        idle_watts: by kind of device, what one draws while its worker waits, if it was measured.
        from_cache: how many members, per kind, had a complete record in the cache.
        measured: how many members, per kind, were measured now, at least in part; of identical
            ones, which are measured once, each counts.
        variants: as which variant a member runs on a kind, where that is not its own model.
        forms: what each variant costs under a name of its own, None if there are no variants.
        doubt: by how much more rows/s another allocation may have, within the intervals, than the
            one that seems best; None if nobody asked.
    """

    profiles: Profiles
    worker_bytes: Mapping[str, int] = field(default_factory=dict)
    colocation: Mapping[TargetKey, float] = field(default_factory=dict)
    noise: Mapping[TargetKey, Mapping[int, float]] = field(default_factory=dict)
    missing: tuple[tuple[str, str, str], ...] = ()
    estimated: tuple[TargetKey, ...] = ()
    energy: Mapping[TargetKey, EnergySource] = field(default_factory=dict)
    idle_watts: Mapping[str, float] = field(default_factory=dict)
    from_cache: int = 0
    measured: int = 0
    variants: Mapping[TargetKey, str] = field(default_factory=dict)
    forms: Measurements | None = None
    doubt: float | None = None

    @property
    def predicted(self) -> int:
        """How many of the profiles are predictions."""
        return sum(one.interval_s is not None for one in self.profiles)

    def form_of(self, member: str, kind: str) -> str:
        """The name of what a member runs as on a kind: its own, or one of its variants."""
        variant = self.variants.get((member, kind), "")
        return f"{member}{VARIANT}{variant}" if variant else member

    def with_former(self, former: Measurements, keys: Collection[TargetKey]) -> Measurements:
        """Return these figures, with those of former measurements for some members and kinds."""
        kept = [key for key in keys if former.profiles.of(*key) and key not in former.estimated]
        profiles = [one for one in self.profiles if (one.member, one.device_kind) not in kept]
        profiles += [one for key in kept for one in former.profiles.of(*key).values()]
        return replace(
            self,
            profiles=Profiles(profiles),
            colocation={
                **self.colocation,
                **{key: former.colocation[key] for key in kept if key in former.colocation},
            },
            noise={
                **self.noise,
                **{key: former.noise[key] for key in kept if key in former.noise},
            },
            energy={
                **self.energy,
                **{key: former.energy[key] for key in kept if key in former.energy},
            },
            idle_watts={**former.idle_watts, **self.idle_watts},
            estimated=tuple(key for key in self.estimated if key not in kept),
        )

    def of_kinds(self, kinds: Collection[str]) -> Measurements:
        """Return what is known of some kinds of devices alone."""
        return replace(
            self,
            profiles=Profiles(one for one in self.profiles if one.device_kind in kinds),
            worker_bytes={kind: size for kind, size in self.worker_bytes.items() if kind in kinds},
            colocation={key: one for key, one in self.colocation.items() if key[1] in kinds},
            noise={key: one for key, one in self.noise.items() if key[1] in kinds},
            missing=tuple(one for one in self.missing if one[1] in kinds),
            estimated=tuple(key for key in self.estimated if key[1] in kinds),
            energy={key: one for key, one in self.energy.items() if key[1] in kinds},
            idle_watts={kind: one for kind, one in self.idle_watts.items() if kind in kinds},
            variants={key: one for key, one in self.variants.items() if key[1] in kinds},
            forms=self.forms and self.forms.of_kinds(kinds),
        )

    def slowdowns(self) -> Iterator[tuple[str, str, float]]:
        """Yield member, kind and factor where co-location costs more than noise."""
        for (member, kind), factor in self.colocation.items():
            if factor >= _LEAST_SLOWDOWN:
                yield member, kind, factor


def collect(
    targets: Sequence[ProfileTarget],
    records: Mapping[TargetKey, ProfileRecord],
    *,
    from_cache: int,
    measured: int,
) -> Measurements:
    """Collect the profiles of all targets, and predict what could not be measured.

    Raises:
        StartError: if a member can't run anywhere.
    """
    profiles: list[Profile] = []
    missing: list[tuple[str, str, str]] = []
    worker_bytes: dict[str, int] = {}
    predictions = predict_costs(targets, records)
    for target in targets:
        record = records[target.key]
        if limitation := record.limitation or ("" if target.batches else target.batch_limit):
            missing.append((*target.key, limitation))
        if target.is_fake:
            profiles += _fake_profiles(target)
        elif target.key in predictions:
            known = predictions[target.key].profiles
            profiles += [_expected_profile(target, record, one) for one in known]
        else:
            profiles += [
                _expected_profile(
                    target, record, Profile(*target.key, one.batch, one.latency_s, one.memory_bytes)
                )
                for one in record.measured
            ]
        if record.worker_bytes:
            kind = target.devices[0].kind
            worker_bytes[kind] = max(worker_bytes.get(kind, 0), record.worker_bytes)
    table = Profiles(map(_with_joules(targets, records), profiles))
    _check_each_can_run(targets, table, missing)
    estimated = [key for key in predictions if not records[key].measured]
    return Measurements(
        profiles=table,
        worker_bytes=worker_bytes,
        colocation={t.key: records[t.key].colocation for t in targets if table.of(*t.key)},
        noise={
            **{t.key: records[t.key].noise for t in targets if records[t.key].noise},
            **{key: predictions[key].doubt for key in estimated},
        },
        missing=tuple(missing),
        estimated=tuple(estimated),
        energy=dict(_energy_sources(table, records)),
        idle_watts=idle_watts((kind, record.energy) for (_, kind), record in records.items()),
        from_cache=from_cache,
        measured=measured,
    )


def _fake_profiles(target: ProfileTarget) -> list[Profile]:
    """The profiles of a fake member, as configured."""
    options = target.member.source.fake
    assert options is not None
    latency_s = options.sleep_ms / 1000 + _FAKE_OVERHEAD_S
    return [Profile(*target.key, batch, latency_s, _FAKE_BYTES) for batch in target.batches]


def _expected_profile(target: ProfileTarget, record: ProfileRecord, one: Profile) -> Profile:
    """The profile of a batch size; with variable dimensions, of the expected mix of lengths."""
    if not target.lengths[1:]:
        return one
    latencies_s = {each.batch: each.latency_s for each in record.measured}
    factor = expected_factor(target.lengths, record.lengths, latencies_s, one.batch)
    same = [each for each in record.lengths if each.batch == one.batch]
    return replace(one.at_pace(factor), lengths={each.size: each.latency_s for each in same})


def _with_joules(
    targets: Sequence[ProfileTarget], records: Mapping[TargetKey, ProfileRecord]
) -> Callable[[Profile], Profile]:
    """Return what adds the energy of a batch: as measured, else by the configured watts."""
    watts = {target.devices[0].kind: estimated_watts(target.devices) for target in targets}

    def add(one: Profile) -> Profile:
        record = records[one.member, one.device_kind]
        joules = None if record.energy is None else record.energy.joules.get(one.batch)
        if joules is not None:
            # It was measured with the longest rows.
            longest_s = {each.batch: each.latency_s for each in record.measured}[one.batch]
            return replace(one, joules=joules * one.latency_s / longest_s)
        busy = watts[one.device_kind]
        return one if busy is None else replace(one, joules=busy * one.latency_s)

    return add


def _energy_sources(
    profiles: Profiles, records: Mapping[TargetKey, ProfileRecord]
) -> Iterator[tuple[TargetKey, EnergySource]]:
    """Yield where the energy of a member on a kind is from, if any of its profiles has it."""
    for one in profiles:
        if one.joules is not None:
            key = one.member, one.device_kind
            energy = records[key].energy
            is_measured = energy is not None and one.batch in energy.joules
            yield key, energy.source if energy is not None and is_measured else "estimated"


def _check_each_can_run(
    targets: Iterable[ProfileTarget], profiles: Profiles, missing: Iterable[tuple[str, str, str]]
) -> None:
    lines = []
    for member in {target.member.name: target.member for target in targets}.values():
        if VARIANT not in member.name and member.name not in profiles.members:
            reasons = "; ".join(
                f"{kind}: {why}" for name, kind, why in missing if name == member.name
            )
            model = f"member {member.name!r} ({member.source.origin})"
            lines.append(f"{model} can't run on any device: {reasons}")
    if lines:
        raise StartError("\n".join(lines))
