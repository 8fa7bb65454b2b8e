"""What is profiled, members on kinds of devices, and what is known of each.

Runs in the process that profiles; pure. Configuration, members and devices flow in,
`ProfileTarget`s flow out, each with the arena and the instance to measure it with. Profilers and
the cache make `ProfileRecord`s of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.members.composition import compose
from server.members.inspect import InspectedMember
from server.profiling.energy import RecordedEnergy
from server.profiling.lengths import MeasuredLength, RowLength, row_lengths
from workers.profiler.handle import LONG_RUN_S, MIN_RUNS, Measured
from workers.runtime.arena import bytes_per_row
from workers.runtime.spec import ArenaSpec, DeviceSpec, InstanceSpec

__all__ = [
    "MEASURING_S",
    "ProfileRecord",
    "ProfileTarget",
    "TargetKey",
    "measuring_s",
    "profile_targets",
    "rows_per_s",
]

#: How long a batch size is measured, if its runs are short.
MEASURING_S = 0.3
#: No larger batch is tried after one that takes longer, or is so much slower than the best.
_LONG_BATCH_S = 2.0
_WORTHWHILE = 0.9
#: A batch size with a smaller share of the best one's rows per second can't be the best.
_CANDIDATE_SHARE = 0.85
#: Two batches of rows must fit a profiler's arena.
_ARENA_BYTES = 256 << 20
#: What an arena takes besides its rows, at most.
_ARENA_EXTRA_BYTES = 64 << 10
#: Most instances that run side by side when their slowdown is measured.
_MAX_COLOCATED = 8

#: The names of the member and of the kind of device.
TargetKey = tuple[str, str]


def measuring_s(run_s: float) -> float:
    """Return how long a measurement of batches takes that run for so many seconds."""
    return 2 * run_s if run_s > LONG_RUN_S else run_s + max(MEASURING_S, MIN_RUNS * run_s)


def rows_per_s(measured: Measured) -> float:
    """Return the throughput of batches of the measured size."""
    return measured.batch / measured.latency_s


class ProfileRecord(msgspec.Struct, frozen=True):
    """What is known of a target; also the content of a file of the cache.

    Attributes:
        measured: ascending by batch size, perhaps with gaps.
        worker_bytes: memory of a worker there without any member, 0 if unknown.
        ended: whether larger batches promise no gain.
        limitation: why larger batches (or, with nothing measured, any) can't run; may be empty.
        refused: the smallest batch size that is known not to run, 0 if none is.
        noise: by batch size, of those compared with each other, the relative standard error of the
            rows per second relative to the fastest; empty as long as none were.
        colocated: how many instances ran side by side to measure `colocation`, 0 if none did.
        colocation: by what factor a batch takes longer side by side with these.
        lengths: of a member with variable dimensions, at sizes up to the largest, the only ones
            that `measured` knows; empty as long as none were.
        energy: None as long as it was not measured.
    """

    measured: tuple[Measured, ...] = ()
    worker_bytes: int = 0
    ended: bool = False
    limitation: str = msgspec.field(default="", name="shortfall")
    noise: dict[int, float] = {}
    colocated: int = msgspec.field(default=0, name="crowd")
    colocation: float = 1.0
    lengths: tuple[MeasuredLength, ...] = ()
    energy: RecordedEnergy | None = None
    refused: int = 0

    @property
    def best(self) -> Measured:
        """The batch size with most rows per second; something must have been measured."""
        return max(self.measured, key=rows_per_s)

    @property
    def candidates(self) -> tuple[Measured, ...]:
        """The batch sizes that may turn out as the best, ascending."""
        fastest = max(map(rows_per_s, self.measured), default=0.0)
        return tuple(one for one in self.measured if rows_per_s(one) >= _CANDIDATE_SHARE * fastest)

    @property
    def needs_comparison(self) -> bool:
        """Whether several candidates have not been compared with each other yet."""
        return self.ended and not self.noise and len(self.candidates) > 1

    def measuring_s(self, batch: int) -> float:
        """Return how long a measurement of a batch size takes, judged by the next smaller one."""
        below = [one for one in self.measured if one.batch <= batch]
        return measuring_s(below[-1].latency_s * batch / below[-1].batch) if below else 0.0

    def open_batches(self, batches: Sequence[int]) -> list[int]:
        """Return those of some ascending batch sizes that are still worth measuring."""
        known = {one.batch for one in self.measured}
        ends = [
            one.batch
            for one in self.measured
            if one.latency_s > _LONG_BATCH_S or self.has_fallen_behind(one)
        ]
        last = min([batches[-1], *ends, *([self.refused - 1] if self.refused else [])])
        return [] if self.ended else [one for one in batches if one <= last and one not in known]

    def has_fallen_behind(self, one: Measured) -> bool:
        """Whether a batch size is so slow that no larger one can be the best."""
        smaller = [rows_per_s(each) for each in self.measured if each.batch < one.batch]
        return rows_per_s(one) < _WORTHWHILE * max(smaller, default=0.0)


@dataclass(frozen=True)
class ProfileTarget:
    """A member on a kind of device, whose first device is the one to measure on.

    `batches` ascend and fit a profiler's arena; `batch_limit`, which may be empty, is why larger
    ones are left out. `arena` and `instance` are for the largest, None if nothing is to be
    measured. `lengths` are its length classes, if any of its dimensions are variable. `is_metered`
    says that its energy is wanted, and that the host has a meter.
    """

    member: InspectedMember
    devices: tuple[DeviceSpec, ...]
    batches: tuple[int, ...]
    batch_limit: str = ""
    arena: ArenaSpec | None = None
    instance: InstanceSpec | None = None
    lengths: tuple[RowLength, ...] = ()
    is_metered: bool = False

    @property
    def key(self) -> TargetKey:
        """The names of the member and of the kind of device."""
        return self.member.name, self.devices[0].kind

    @property
    def is_fake(self) -> bool:
        """Whether the member is a fake, which only sleeps."""
        return self.member.source.backend == "fake"

    @property
    def model_rows(self) -> int:
        """How many rows its model predicts for one: with test-time augmentation, each variant."""
        augmentation = None if self.instance is None else self.instance.augmentation
        return 1 if augmentation is None else len(augmentation.variants)

    @property
    def neighbours(self) -> tuple[DeviceSpec, ...]:
        """The devices of the kind that may slow each other down: all CPUs, but only one GPU."""
        return self.devices[: 1 if self.devices[0].is_cuda else _MAX_COLOCATED]

    def needs_colocation(self, record: ProfileRecord) -> bool:
        """Whether the slowdown by busy neighbours is still to be measured."""
        return bool(record.measured) and len(self.neighbours) not in (1, record.colocated)

    def needs_lengths(self, record: ProfileRecord) -> bool:
        """Whether smaller rows are still to be measured."""
        return bool(record.measured) and len(self.lengths) > 1 and not record.lengths

    def needs_energy(self, record: ProfileRecord) -> bool:
        """Whether the energy of batches is still to be measured."""
        return self.is_metered and bool(record.measured) and record.energy is None

    def is_complete(self, record: ProfileRecord) -> bool:
        """Whether nothing is left to be measured."""
        if self.is_fake or not self.batches:
            return True
        is_open = record.needs_comparison or self.needs_lengths(record) or self.needs_energy(record)
        return record.ended and not is_open and not self.needs_colocation(record)


def profile_targets(
    config: Config, members: Sequence[InspectedMember], devices: Sequence[DeviceSpec]
) -> Iterator[ProfileTarget]:
    """Yield every member, and each of its variants, on every kind of device, member by member.

    Raises:
        ConfigError: if the configuration and a model disagree.
    """
    kinds: defaultdict[str, list[DeviceSpec]] = defaultdict(list)
    # The device with the most memory can run the largest batches.
    for device in sorted(devices, key=lambda device: -device.memory_bytes):
        kinds[device.kind].append(device)
    for member in [form for each in members for form in each.forms]:
        own = member.config.batch_size
        batches = tuple(sorted(config.placement.batch_sizes)) if own is None else (own,)
        for kind in dict.fromkeys(one.kind for one in devices if member.may_run_on(one)):
            target = ProfileTarget(member, tuple(kinds[kind]), batches)
            yield target if target.is_fake else _with_arena(config, target)


def _with_arena(config: Config, target: ProfileTarget) -> ProfileTarget:
    """Add an arena for the member alone, composed as the server would."""
    alone = config.model_copy(update={"ensembles": {}})
    member, devices, batches = target.member, target.devices, target.batches

    def composed(batch: int, budget_bytes: int) -> tuple[ArenaSpec, InstanceSpec]:
        matrix = AllocationMatrix((member.name,), (devices[0].name,), ((batch,),))
        done = compose(
            alone,
            [member],
            matrix,
            budget_bytes=budget_bytes,
            largest_only=True,
        )
        return done.arenas[0], done.instances[devices[0].name][0]

    arena, _ = composed(1, _ARENA_BYTES)
    row_bytes = bytes_per_row(arena.views, arena.blocks, arena.ensembles)
    fitting = tuple(batch for batch in batches if 2 * batch * row_bytes <= _ARENA_BYTES)
    limit = ""
    if fitting != batches:
        size = f"{_ARENA_BYTES >> 20} MiB"
        limit = f"batch {batches[len(fitting)]} and above: two of them take more than {size}"
    if not fitting:
        return ProfileTarget(member, devices, (), limit)
    arena, instance = composed(fitting[-1], 2 * fitting[-1] * row_bytes + _ARENA_EXTRA_BYTES)
    lengths = row_lengths(member, arena.symbols)
    return ProfileTarget(member, devices, fitting, limit, arena, instance, lengths)
