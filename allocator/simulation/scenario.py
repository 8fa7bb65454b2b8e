"""A scenario to simulate: an allocation under a load, with failures.

Pure data; read by the simulation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from allocator.matrix import AllocationMatrix
from allocator.problem import Device
from allocator.profiles import Profiles
from allocator.simulation.arrivals import Arrivals, Trace

__all__ = ["EnsembleShare", "Host", "LaterStage", "Loss", "Scenario", "mix_demand"]

#: A row's count of members still to come is kept in a byte.
_MOST_MEMBERS = 255


@dataclass(frozen=True)
class LaterStage:
    """A later stage of a cascade: its members, and the share of the stage before's rows it gets."""

    members: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class EnsembleShare:
    """An ensemble of some of the members; its weight is its relative share of the requests.

    `members` are all of it, or the first stage of a cascade, whose `later` ones follow. A trace may
    say by `name` which requests are for it.

    Raises:
        ValueError: if the weight is not above 0, a share of rows not from 0 to 1, or the members
            are none or repeated.
    """

    members: tuple[str, ...]
    weight: float = 1.0
    later: tuple[LaterStage, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight should be above 0, not {self.weight}")
        stages = [self.members, *(stage.members for stage in self.later)]
        if not all(stages) or len(set(self.all_members)) < len(self.all_members):
            raise ValueError("an ensemble should have members, each of them once")
        for stage in self.later:
            if not 0 <= stage.share <= 1:
                raise ValueError(f"a stage's share should be from 0 to 1, not {stage.share}")

    @property
    def all_members(self) -> tuple[str, ...]:
        """The members of all stages."""
        return (*self.members, *(name for stage in self.later for name in stage.members))


def mix_demand(mix: Sequence[EnsembleShare]) -> dict[str, float]:
    """Rows of each member per row of a mix, see `allocator.problem.Problem`; all have as many rows.

    Members that no row asks for are left out.
    """
    demand: Counter[str] = Counter()
    total = sum(ensemble.weight for ensemble in mix)
    for ensemble in mix:
        share = ensemble.weight / total
        demand.update(dict.fromkeys(ensemble.members, share))
        for stage in ensemble.later:
            share *= stage.share
            demand.update(dict.fromkeys(stage.members, share))
    return {member: rows for member, rows in demand.items() if rows > 0}


@dataclass(frozen=True)
class Loss:
    """A device that fails; what it held goes back and runs elsewhere.

    It fails `at_s` seconds after the start, and is up again `back_after_s` later; None for never.

    Raises:
        ValueError: if a time makes no sense.
    """

    device: str
    at_s: float
    back_after_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.at_s < math.inf:
            raise ValueError(f"{self.device}: a loss at {self.at_s} s")
        if self.back_after_s is not None and not 0 < self.back_after_s < math.inf:
            raise ValueError(f"{self.device}: back after {self.back_after_s} s")


@dataclass(frozen=True)
class Host:
    """Seconds of CPU time; all zero is the plain model, in which only predictions take time.

    Front-end and combiner work in turns: a turn handles all that has arrived at its start, so
    what a turn costs is shared by more and more the busier they are.

    Attributes:
        cores: how many cores front-end, combiner, load generator and CPU workers share; 0 if
            none of them ever waits for a core.
        frontend_s_per_turn: of the front-end, per turn.
        frontend_s_per_request: per request; half when it comes, half when it is answered.
        frontend_s_per_row: per row that comes.
        frontend_s_per_byte: per byte that comes, see `row_bytes`.
        frontend_s_per_job: per job given out and heard of.
        combiner_s_per_turn: of the combiner, per turn.
        combiner_s_per_range: per range that a worker reports.
        combiner_s_per_row: per row that is combined.
        worker_s_per_job: of a worker, per job, on top of the batch's latency; on the device.
        client_s_per_request: of the load generator, one process on the same cores.
        row_bytes: of one row of a request.

    Raises:
        ValueError: if a number is negative.
    """

    cores: int = 0
    frontend_s_per_turn: float = 0.0
    frontend_s_per_request: float = 0.0
    frontend_s_per_row: float = 0.0
    frontend_s_per_byte: float = 0.0
    frontend_s_per_job: float = 0.0
    combiner_s_per_turn: float = 0.0
    combiner_s_per_range: float = 0.0
    combiner_s_per_row: float = 0.0
    worker_s_per_job: float = 0.0
    client_s_per_request: float = 0.0
    row_bytes: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} should be 0 or more, not {value}")

    @property
    def has_processes(self) -> bool:
        """Whether front-end, combiner or load generator take any time."""
        return any(
            value
            for name, value in vars(self).items()
            if name.startswith(("frontend", "combiner", "client"))
        )


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything that one run of the simulation depends on.

    The run ends after `seconds`, or when `requests` have been answered or refused, whichever is
    first; without either, after 10,000 requests (20 for each connection of a closed loop, if that
    is more), or at the end of a trace.

    Attributes:
        matrix: which member runs where, with what batch size.
        devices: at least those of the matrix; their kind is what profiles are looked up by.
        profiles: what batches take.
        arrivals: when requests come.
        host: what serving costs apart from predictions; by default nothing.
        mix: the ensembles that requests are for; by default all are for all members. A trace that
            names them says which request is for which.
        seconds: how long to simulate.
        requests: how many to simulate.
        warm_up: the share of that which is left out of the figures.
        seed: of arrivals, mix and noise.
        noise: sigma of the lognormal factor, of mean 1, on every batch's latency.
        colocation: by (member, device kind), a factor on the latency; by default 1.
        arena_rows: how many rows are in flight at most; None for no limit.
        max_waiting: how many requests may wait for slots of the arena; others are refused.
        losses: the devices that fail.
        deadline_s: seconds after which an answer is late; rows are predicted all the same.

    Raises:
        ValueError: if something does not fit together, or has no profile.
    """

    matrix: AllocationMatrix
    devices: Sequence[Device]
    profiles: Profiles
    arrivals: Arrivals
    host: Host = Host()
    mix: Sequence[EnsembleShare] = ()
    seconds: float | None = None
    requests: int | None = None
    warm_up: float = 0.1
    seed: int = 0
    noise: float = 0.0
    colocation: Mapping[tuple[str, str], float] = field(default_factory=dict)
    arena_rows: int | None = None
    max_waiting: int | None = None
    losses: Sequence[Loss] = ()
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        problems = [
            (len(self.matrix.members) > _MOST_MEMBERS, f"more than {_MOST_MEMBERS} members"),
            (not 0 <= self.warm_up < 1, f"warm_up should be a share, not {self.warm_up}"),
            (self.noise < 0, f"noise should be 0 or more, not {self.noise}"),
            (min(self.colocation.values(), default=1.0) <= 0, "a colocation factor is not above 0"),
            (self.requests is not None and self.requests < 1, "requests should be 1 or more"),
            (
                self.seconds is not None and not 0 < self.seconds < math.inf,
                "seconds should be above 0",
            ),
            (self.arena_rows is not None and self.arena_rows < 1, "arena_rows should be 1 or more"),
            (
                self.max_waiting is not None and (self.max_waiting < 0 or self.arena_rows is None),
                "max_waiting should be 0 or more, and needs arena_rows",
            ),
            (
                self.deadline_s is not None and not self.deadline_s > 0,
                "deadline_s should be above 0",
            ),
        ]
        for is_wrong, text in problems:
            if is_wrong:
                raise ValueError(text)
        self._check_names()

    def _check_names(self) -> None:
        kinds = {device.name: device.kind for device in self.devices}
        for device in (*self.matrix.devices, *(loss.device for loss in self.losses)):
            if device not in kinds:
                raise ValueError(f"device {device!r} is not there")
        for ensemble in self.mix:
            for member in ensemble.all_members:
                if member not in self.matrix.members:
                    raise ValueError(f"member {member!r} is not there")
        names = {ensemble.name for ensemble in self.mix}
        for name in self.arrivals.models if isinstance(self.arrivals, Trace) else ():
            if name not in names:
                raise ValueError(f"ensemble {name!r} of the trace is not there")
        for device, member, _ in self.matrix.instances():
            if not self.profiles.of(member, kinds[device]):
                raise ValueError(f"member {member!r} has no profile on {kinds[device]!r}")
