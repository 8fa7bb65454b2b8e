"""Members on kinds of devices, each with the arena and the instance to measure it with.

Runs in the process that profiles; pure. Configuration, members and devices flow in, `Pair`s flow
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.members.composition import compose
from server.members.member import InspectedMember
from server.profiling.known import Known
from workers.profiler.messages import ARENA_OFFSET
from workers.runtime.arena import bytes_per_row
from workers.runtime.spec import ArenaSpec, DeviceSpec, InstanceSpec

__all__ = ["Pair", "pairs_of"]

#: Two batches of rows must fit a profiler's arena.
_ARENA_BYTES = 256 << 20
#: What an arena takes besides its rows, at most.
_ARENA_EXTRA_BYTES = 64 << 10
#: How many instances run side by side when their influence on each other is measured, at most.
_MOST_NEIGHBOURS = 8


@dataclass(frozen=True)
class Pair:
    """A member on a kind of device.

    Attributes:
        member: the member.
        devices: those of the kind; the first is the one to measure on.
        batches: ascending; those for which a profiler's arena has room.
        too_big: why others are not among them; may be empty.
        arena: for the largest of them; None if there is nothing to be measured.
        instance: for the largest of them; None if there is nothing to be measured.
    """

    member: InspectedMember
    devices: tuple[DeviceSpec, ...]
    batches: tuple[int, ...]
    too_big: str = ""
    arena: ArenaSpec | None = None
    instance: InstanceSpec | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The names of the member and of the kind."""
        return self.member.name, self.devices[0].kind

    @property
    def is_fake(self) -> bool:
        """Whether the member is one that only sleeps."""
        return self.member.source.backend == "fake"

    @property
    def crowd(self) -> tuple[DeviceSpec, ...]:
        """The devices that may disturb each other."""
        return self.devices[: 1 if self.devices[0].is_cuda else _MOST_NEIGHBOURS]

    def needs_crowd(self, known: Known) -> bool:
        """Whether it is still to be found out how instances disturb each other.

        Args:
            known: what is known of this pair.
        """
        return bool(known.measured) and len(self.crowd) not in (1, known.crowd)

    def is_complete(self, known: Known) -> bool:
        """Whether there is nothing left to be measured.

        Args:
            known: what is known of this pair.
        """
        if self.is_fake or not self.batches:
            return True
        return known.ended and not known.needs_comparison and not self.needs_crowd(known)


def pairs_of(
    config: Config, members: Sequence[InspectedMember], devices: Sequence[DeviceSpec]
) -> Iterator[Pair]:
    """Yield every member on every kind of device, member by member.

    Args:
        config: the configuration, for the batch sizes.
        members: of this configuration.
        devices: where members may go.

    Raises:
        ConfigError: if the configuration and a model disagree.
    """
    kinds: dict[str, list[DeviceSpec]] = {}
    for device in devices:
        kinds.setdefault(device.kind, []).append(device)
    for member in members:
        own = member.config.batch_size
        batches = tuple(sorted(config.placement.batch_sizes)) if own is None else (own,)
        for group in kinds.values():
            # Where the most memory is, the most can be tried.
            ordered = tuple(sorted(group, key=lambda device: -device.memory_bytes))
            if member.source.backend == "fake":
                yield Pair(member, ordered, batches)
            else:
                yield _arrange(config, member, ordered, batches)


def _arrange(
    config: Config,
    member: InspectedMember,
    devices: tuple[DeviceSpec, ...],
    batches: tuple[int, ...],
) -> Pair:
    """Lay out an arena for the member alone, as the server would."""
    alone = config.model_copy(update={"ensembles": {}})

    def composed(batch: int, budget_bytes: int) -> tuple[ArenaSpec, InstanceSpec]:
        matrix = AllocationMatrix((member.name,), (devices[0].name,), ((batch,),))
        done = compose(alone, [member], matrix, budget_bytes=budget_bytes, offset=ARENA_OFFSET)
        return done.arenas[0], done.instances[devices[0].name][0]

    arena, _ = composed(1, _ARENA_BYTES)
    row = bytes_per_row(arena.views, arena.blocks, arena.ensembles)
    fitting = tuple(batch for batch in batches if 2 * batch * row <= _ARENA_BYTES)
    too_big = ""
    if fitting != batches:
        room = f"{_ARENA_BYTES >> 20} MiB"
        too_big = f"batch {batches[len(fitting)]} and above: two of them take more than {room}"
    if not fitting:
        return Pair(member, devices, (), too_big)
    arena, instance = composed(fitting[-1], 2 * fitting[-1] * row + _ARENA_EXTRA_BYTES)
    return Pair(member, devices, fitting, too_big, arena, instance)
