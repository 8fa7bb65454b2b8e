"""What profiling results in, put together from what was measured, told and estimated.

Runs in the process that profiles; pure. Pairs and what is known of them flow in, `Measurements`
flow out to whoever plans an allocation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from allocator.profiles import Profile, Profiles
from server.errors import StartError
from server.members.member import InspectedMember
from server.profiling.estimates import estimate, fake_profiles
from server.profiling.known import Known
from server.profiling.pairs import Pair

__all__ = ["Measurements", "collect"]


#: A co-location factor below this is noise.
_NOTICED = 1.02


@dataclass(frozen=True)
class Measurements:
    """What members cost.

    Attributes:
        profiles: measured, known (fake members) or estimated; what is not there can't be used.
        worker_bytes: by kind of device, what a worker takes there without any member; the most of
            the runtimes in use. Kinds on which nothing was ever measured are not there.
        colocation: by member and kind, by what factor a batch takes longer while the other
            devices of this kind (eight at most, with it) are as busy; 1.0 or more.
        noise: by member and kind, the relative standard error of the rows per second of those
            batch sizes that were compared with each other.
        missing: member, kind, and why it can't run there at all or not with larger batches.
        estimated: members and kinds of which nothing could be measured in time.
        from_cache: how many members, per kind, had been measured completely before.
        measured: how many members, per kind, were measured now, at least in part; those that are
            alike are measured once, but each counts.
    """

    profiles: Profiles
    worker_bytes: Mapping[str, int] = field(default_factory=dict)
    colocation: Mapping[tuple[str, str], float] = field(default_factory=dict)
    noise: Mapping[tuple[str, str], Mapping[int, float]] = field(default_factory=dict)
    missing: tuple[tuple[str, str, str], ...] = ()
    estimated: tuple[tuple[str, str], ...] = ()
    from_cache: int = 0
    measured: int = 0

    def disturbed(self) -> Iterator[tuple[str, str, float]]:
        """Yield member, kind and factor where co-location is more than noise."""
        for (member, kind), factor in self.colocation.items():
            if factor >= _NOTICED:
                yield member, kind, factor


def collect(
    pairs: Sequence[Pair],
    known: Mapping[tuple[str, str], Known],
    *,
    from_cache: int,
    measured: int,
) -> Measurements:
    """Put everything together, and estimate what nothing is known of.

    Args:
        pairs: all members on all kinds.
        known: what is known of them, by their keys.
        from_cache: how many had been measured before.
        measured: how many were measured now.

    Raises:
        StartError: if a member can't run anywhere.
    """
    profiles: list[Profile] = []
    missing: list[tuple[str, str, str]] = []
    estimated: list[tuple[str, str]] = []
    for pair in pairs:
        found = known[pair.key]
        shortfall = found.shortfall or ("" if pair.batches else pair.too_big)
        if shortfall:
            missing.append((*pair.key, shortfall))
        if pair.is_fake:
            profiles += fake_profiles(pair)
        elif found.measured:
            profiles += _measured_profiles(pair, found)
        elif not shortfall:
            estimated.append(pair.key)
            profiles += estimate(pair, pairs, known)
    table = Profiles(profiles)
    _check_each_can_run(pairs, table, missing)
    return Measurements(
        profiles=table,
        worker_bytes=_worker_bytes(pairs, known),
        colocation={p.key: known[p.key].colocation for p in pairs if table.of(*p.key)},
        noise={p.key: known[p.key].noise for p in pairs if known[p.key].noise},
        missing=tuple(missing),
        estimated=tuple(estimated),
        from_cache=from_cache,
        measured=measured,
    )


def _measured_profiles(pair: Pair, found: Known) -> list[Profile]:
    return [
        Profile(*pair.key, one.batch, one.latency_s, one.memory_bytes) for one in found.measured
    ]


def _worker_bytes(
    pairs: Iterable[Pair], known: Mapping[tuple[str, str], Known]
) -> Mapping[str, int]:
    most: dict[str, int] = {}
    for pair in pairs:
        if found := known[pair.key].worker_bytes:
            kind = pair.key[1]
            most[kind] = max(most.get(kind, 0), found)
    return most


def _check_each_can_run(
    pairs: Iterable[Pair], profiles: Profiles, missing: Sequence[tuple[str, str, str]]
) -> None:
    members = {pair.member.name: pair.member for pair in pairs}
    stranded = [one for name, one in members.items() if name not in profiles.members]
    if stranded:
        raise StartError("\n".join(_why_stranded(one, missing) for one in stranded))


def _why_stranded(member: InspectedMember, missing: Sequence[tuple[str, str, str]]) -> str:
    reasons = "; ".join(
        f"{kind}: {reason}" for name, kind, reason in missing if name == member.name
    )
    return f"member {member.name!r} ({member.source.path}) can't run on any device: {reasons}"
