"""What members cost: seconds and bytes per member, device kind and batch size.

Pure data, used wherever an allocation is planned or simulated. Measured or estimated figures flow
in, lookups and the profiles file flow out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from allocator.documents import Name, Size, decode

__all__ = ["Profile", "Profiles"]

#: Anything faster is a slip, and rates must be finite.
_LEAST_S = 1e-12

#: What a profile may leave out.
_OPTIONAL = ("lengths", "joules", "interval_s", "interval_bytes")

_NONE: Mapping[int, Profile] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Profile:
    """What one instance costs.

    `batch` is in rows, `latency_s` per batch; `memory_bytes` is what loading the instance adds to a
    worker that is warm. For a member with variable dimensions `latency_s` is what a batch of the
    expected mix of lengths takes; `lengths` may tell what those of rows of one length took.

    Attributes:
        joules: the energy of a batch, None if nobody has measured or estimated it.
        interval_s: for a predicted latency, between what it is expected to be; None if it was
            measured.
        interval_bytes: the same for the memory. `memory_bytes` is its upper end if anything of the
            member was measured: what may not fit is not placed.

    Raises:
        ValueError: if a number is not positive (memory may be zero), or an interval does not hold
            what it belongs to.
    """

    member: str
    device_kind: str
    batch: int
    latency_s: float
    memory_bytes: int
    lengths: Mapping[int, float] = field(default_factory=dict, hash=False)
    joules: float | None = None
    interval_s: tuple[float, float] | None = None
    interval_bytes: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        where = f"member {self.member!r} on {self.device_kind!r}"
        if self.batch < 1:
            raise ValueError(f"{where}: batch should be 1 or more, not {self.batch}")
        if not _LEAST_S <= self.latency_s < float("inf"):
            raise ValueError(f"{where}: latency_s should be above 0, not {self.latency_s}")
        if self.memory_bytes < 0:
            raise ValueError(f"{where}: memory_bytes should be 0 or more, not {self.memory_bytes}")
        if self.joules is not None and not 0 < self.joules < float("inf"):
            raise ValueError(f"{where}: joules should be above 0, not {self.joules}")
        for name, interval, value, least in (
            ("latency_s", self.interval_s, self.latency_s, _LEAST_S),
            ("memory_bytes", self.interval_bytes, self.memory_bytes, 0),
        ):
            if interval and not least <= interval[0] <= value <= interval[1] < float("inf"):
                raise ValueError(
                    f"{where}: interval_{name.split('_')[1]} should hold {name} ({value}), "
                    f"not be {list(interval)}"
                )

    def at_pace(self, factor: float, more_s: float = 0.0) -> Profile:
        """Return the profile with a latency, and its interval, that is longer."""
        low, high = self.interval_s or (self.latency_s, self.latency_s)
        return replace(
            self,
            latency_s=self.latency_s * factor + more_s,
            interval_s=self.interval_s and (low * factor + more_s, high * factor + more_s),
        )

    @property
    def rows_per_s(self) -> float:
        """Rows per second of an instance that has a device for itself."""
        return self.batch / self.latency_s

    @property
    def joules_per_row(self) -> float | None:
        """Energy of a row in full batches, None if it is not known."""
        return None if self.joules is None else self.joules / self.batch


class Profiles:
    """The profiles of some members on some kinds of devices.

    A combination that is missing can't be used: the member does not run, or does not fit, there.

    Raises:
        ValueError: if a combination is repeated.
    """

    def __init__(self, profiles: Iterable[Profile]) -> None:
        table: dict[tuple[str, str], dict[int, Profile]] = {}
        for one in profiles:
            batches = table.setdefault((one.member, one.device_kind), {})
            if one.batch in batches:
                where = f"member {one.member!r} on {one.device_kind!r}"
                raise ValueError(f"{where}: batch {one.batch} is there twice")
            batches[one.batch] = one
        self._table = {
            key: MappingProxyType({batch: batches[batch] for batch in sorted(batches)})
            for key, batches in table.items()
        }

    def __iter__(self) -> Iterator[Profile]:
        """Yield every profile, a member's batch sizes on one kind together and ascending."""
        for batches in self._table.values():
            yield from batches.values()

    def __len__(self) -> int:
        """How many profiles there are."""
        return sum(map(len, self._table.values()))

    @property
    def members(self) -> tuple[str, ...]:
        """The members in the order of their first appearance."""
        return tuple(dict.fromkeys(member for member, _ in self._table))

    def of(self, member: str, device_kind: str) -> Mapping[int, Profile]:
        """A member's profiles on a kind of device by batch size, ascending; empty if none."""
        return self._table.get((member, device_kind), _NONE)

    def latency_s(self, member: str, device_kind: str, rows: int) -> float:
        """Seconds that a batch of so many rows takes.

        Between two profiled batch sizes it is interpolated; beyond them, the last one's time per
        row (or the first one's time per batch) holds.

        Raises:
            KeyError: if the member has no profile on that kind.
        """
        below: Profile | None = None
        for one in self._table[member, device_kind].values():
            if one.batch >= rows:
                if below is None or one.batch == rows:
                    return one.latency_s
                share = (rows - below.batch) / (one.batch - below.batch)
                return below.latency_s + share * (one.latency_s - below.latency_s)
            below = one
        assert below is not None
        return below.latency_s * rows / below.batch

    def to_json(self, **extra: Any) -> str:
        """Return the profiles file's text, with `extra` keys."""
        entries = [asdict(one) for one in self]
        for entry in entries:
            for key in _OPTIONAL:
                if not entry[key]:
                    del entry[key]
        return json.dumps({"profiles": entries, **extra}, indent=1)

    @classmethod
    def from_json(cls, document: str | bytes) -> Profiles:
        """Return the profiles of a profiles file.

        Raises:
            ValueError: in one line, if the text is not valid.
        """
        return cls(
            Profile(
                one.member,
                one.device_kind,
                int(one.batch),
                one.latency_s,
                int(one.memory_bytes),
                one.lengths,
                one.joules,
                one.interval_s,
                one.interval_bytes,
            )
            for one in decode(document, _ProfilesFile).profiles
        )


class _ProfileEntry(msgspec.Struct):
    member: Name
    device_kind: Name
    batch: Size
    latency_s: float
    memory_bytes: Size
    lengths: dict[int, float] = {}
    joules: float | None = None
    interval_s: tuple[float, float] | None = None
    interval_bytes: tuple[int, int] | None = None


class _ProfilesFile(msgspec.Struct):
    profiles: Annotated[list[_ProfileEntry], msgspec.Meta(min_length=1)]
